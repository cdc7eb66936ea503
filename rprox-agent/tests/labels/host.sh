# Makes a host with Podman of the namespaces that this runs in: nothing of it is seen outside of them, or stays.
#   $1 folder for what Podman keeps
set -eu
# crun takes nothing but cgroup2 alone.
if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
    umount --recursive --lazy /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
for place in /run /dev/shm; do mount -t tmpfs tmpfs "$place"; done
ip link set lo up
# Not more than whoever runs the tests may have.
cat > "$1/containers.conf" << END
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
cgroups = "disabled"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_config_dir = "$1/networks"
END
touch "$1/ready"
exec sleep infinity
