"""Does a training compute what it should on these devices? Run by the doctor, and by tests on a CPU."""
