#!/bin/sh
# Process 1 until systemd takes over: what a container lacks to be a host. TEST STAND-IN.
mount -o remount,bind,rw /sys
mount -o remount,rw /sys/fs/cgroup
for controller in /sys/fs/cgroup/*; do
    mountpoint -q "$controller" && mount -o remount,bind,rw "$controller"
done
ssh-keygen -A >/dev/null
mount --make-rshared /
# This kernel lends no controllers of cgroup v2, so systemd has to be content with v1.
exec env SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1 /sbin/init \
    systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1
