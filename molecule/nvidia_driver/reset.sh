#!/bin/sh
# The host as it was before the role ran.
set -e
rm -f /srv/doubles/broken-kernels /etc/apt/apt.conf.d/99-fault
packages=$(dpkg-query --show --showformat '${Package}\n' | grep -E '^(nvidia|libnvidia|libcuda|firmware-nvidia|cuda-drivers|dkms|linux-headers)' || true)
[ -z "$packages" ] || { echo "$packages" | xargs apt-mark unhold && echo "$packages" | xargs dpkg --purge --force-all; } >/dev/null 2>&1
rm -rf /var/lib/inferops/nvidia_driver.json /run/inferops/nvidia-driver-reboot /etc/apt/preferences.d/inferops-nvidia.pref \
  /etc/apt/apt.conf.d/52inferops-nvidia /etc/apt/sources.list.d/inferops-nvidia* /etc/apt/keyrings/inferops-nvidia* \
  /etc/modprobe.d/inferops-nouveau.conf /etc/systemd/system/nvidia-persistenced.service.d /lib/modules/*/updates \
  /var/lib/apt/lists/_srv_nvidia_[!dk]* /usr/lib/*-linux-gnu/libnvidia-ml.so* \
  /etc/vllm /var/lib/vllm
rm -f /etc/apt/sources.list.d/moved.sources
cp /srv/nvidia/debian.sources /srv/nvidia/kernel.sources /etc/apt/sources.list.d/
touch -d @1 /boot/initrd.img-*
