#!/bin/busybox sh
# The guest's first process: what a distribution's early boot would set up, then the tests' own program.
busybox=/bin/busybox
$busybox mount -t proc proc /proc
$busybox mount -t sysfs sysfs /sys
$busybox mount -t devtmpfs devtmpfs /dev
$busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup
$busybox mount -t bpf -o mode=0700 bpf /sys/fs/bpf
$busybox mount -t tmpfs -o mode=1777 tmpfs /tmp
$busybox mount -t tmpfs -o mode=0755 tmpfs /run
$busybox --install -s /bin
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
# An emulated processor is some twenty times slower, and most of all the kernel's verifier on it.
export POSTERN_TEST_PATIENCE=300
for module in /modules/*; do
    insmod "$module" || echo "no $module"
done
ip link set lo up
mount -t ext4 /dev/vda /disk || echo "no disk"
stty -F /dev/ttyS1 raw -echo
/t/guest $(cat /t/only)
echo "guest ended with $?"
umount /disk
poweroff -f
