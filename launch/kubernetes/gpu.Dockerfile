# Training on GPUs of compute capability 5.0 to 8.9:  docker build -f launch/kubernetes/gpu.Dockerfile -t vggdist:gpu .
# NOT BUILT in this project: neither a container engine nor such a GPU was at hand. The commands are those of docs/install.md.
# CUDA 11.2 and cuDNN 8 are what mxnet-cu112 was built for; NCCL comes with the image.
FROM nvidia/cuda:11.2.2-cudnn8-devel-ubuntu20.04
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates curl g++ make libgomp1 openmpi-bin libopenmpi-dev openssh-client openssh-server \
    && rm -rf /var/lib/apt/lists/* && mkdir -p /run/sshd
RUN printf 'StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n' >> /etc/ssh/ssh_config \
    && echo 'StrictModes no' >> /etc/ssh/sshd_config
# Ubuntu 20.04 has no Python 3.11; uv brings one.
RUN curl -LsSf https://astral.sh/uv/0.13.8/install.sh | env UV_INSTALL_DIR=/usr/local/bin sh \
    && uv venv --seed --python 3.11 /opt/venv
ENV PATH=/opt/venv/bin:$PATH
RUN pip install --no-cache-dir 'numpy==1.23.5' 'mxnet-cu112==1.9.1' 'cmake<4' 'setuptools<81' \
        wheel hatchling cffi cloudpickle psutil pyyaml packaging
WORKDIR /vggdist
COPY . .
# The driver's library is not there while the image is built; its stub is enough to link.
RUN ln -s libcuda.so /usr/local/cuda/lib64/stubs/libcuda.so.1 \
    && LD_LIBRARY_PATH=/usr/local/cuda/lib64/stubs:$LD_LIBRARY_PATH \
       HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_WITH_MXNET=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 \
       pip install --no-build-isolation --no-cache-dir '.[gpu]'
WORKDIR /srv/vggdist
CMD ["python", "-m", "vggdist.train"]
