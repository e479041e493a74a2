"""Checks that training computes correct results on these devices. Run by the doctor, and by tests on a CPU."""
