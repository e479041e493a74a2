# Training on GPUs of compute capability 5.0 to 8.9:  docker build -f launch/kubernetes/gpu.Dockerfile -t vggdist:gpu .
# NOT BUILT in this project: neither a container engine nor such a GPU was available. Both stages were run as Debian 12 systems with
# these packages and Debian's Python 3.11; the second one as an ordinary user.
FROM python:3.11-slim-bookworm AS build
# nvcc of CUDA 11.8 is only for compiling Horovod. Trainings use the CUDA libraries from PyPI, and the host's driver.
RUN sed -i 's/^Components: main$/Components: main contrib non-free/' /etc/apt/sources.list.d/debian.sources \
    && apt-get update && apt-get install -y --no-install-recommends \
        g++ g++-11 make nvidia-cuda-toolkit openmpi-bin libopenmpi-dev
WORKDIR /vggdist
COPY . .
RUN launch/gpu/install.sh

FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends \
        libgomp1 libquadmath0 openmpi-bin openssh-client openssh-server \
    && rm -rf /var/lib/apt/lists/* && mkdir -p /run/sshd
# The operator mounts the keys read-only, and every job has new hosts.
RUN printf 'StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n' >> /etc/ssh/ssh_config \
    && echo 'StrictModes no' >> /etc/ssh/sshd_config
# The environment uses the image's Python in /usr/local, so that any user can run it.
COPY --from=build /vggdist /vggdist
ENV PATH=/vggdist/.venv/bin:$PATH NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /srv/vggdist
CMD ["python", "-m", "vggdist.train"]
