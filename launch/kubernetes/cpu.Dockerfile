# Training on CPUs, and the ranks of an MPIJob:  docker build -f launch/kubernetes/cpu.Dockerfile -t vggdist:cpu .
# NOT BUILT in this project: no container engine was available. The commands are those of README.md and .ci/run.
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends \
        g++ make openmpi-bin libopenmpi-dev openssh-client openssh-server \
    && rm -rf /var/lib/apt/lists/* && mkdir -p /run/sshd
# The operator mounts the keys read-only, and every job has new hosts.
RUN printf 'StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n' >> /etc/ssh/ssh_config \
    && echo 'StrictModes no' >> /etc/ssh/sshd_config
WORKDIR /vggdist
COPY . .
RUN pip install --no-cache-dir uv==0.13.8 && uv sync --no-dev --no-cache
ENV PATH=/vggdist/.venv/bin:$PATH
WORKDIR /srv/vggdist
CMD ["python", "-m", "vggdist.train"]
