#!/bin/sh
# Process 1 until systemd takes over: what a container lacks to be a host. TEST STAND-IN.
mount -o remount,bind,rw /sys
mount -o remount,rw /sys/fs/cgroup
for controller in /sys/fs/cgroup/*; do
    mountpoint -q "$controller" && mount -o remount,bind,rw "$controller"
done
ssh-keygen -A >/dev/null
mount --make-rshared /
# What a reboot changes: the outer kernel's own number stays.
cp /proc/sys/kernel/random/uuid /run/boot_id
mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
# The devices that this host is said to have on its PCI bus.
[ -d /etc/respawner-standin/pci ] && mount --bind /etc/respawner-standin/pci /sys/bus/pci/devices
# cgroup v2, which systemd would choose by itself.
[ -e /sys/fs/cgroup/cgroup.controllers ] && exec /sbin/init
# A kernel that lends no controllers of v2: systemd has to be content with v1.
exec env SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1 /sbin/init \
    systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1
