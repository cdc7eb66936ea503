# Makes a host of the namespaces that this runs in, and becomes its first process. Nothing of it is seen outside of them:
# what is written here lies on file systems of its own, which end with the last process.
#   $1 folder for the user's home    $2 user    $3 id of user and group    $4 first of 65,536 subordinate ids    $5 name for cgroups    $6 name server
set -eu
folder=$1 user=$2 id=$3 first=$4 cgroup=$5

# crun takes nothing but cgroup2 alone.
if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
    umount --recursive --lazy /sys/fs/cgroup || true
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
# What killed runs left is empty; /proc still is the one that knows their processes.
for left in /sys/fs/cgroup/rprox-*; do
    run=${left#*/rprox-}
    [ -d "/proc/${run%%-*}" ] || find "$left" -depth -type d -exec rmdir {} \; 2> /dev/null || true
done
mkdir -p "/sys/fs/cgroup/$cgroup/user/session"
echo $$ > "/sys/fs/cgroup/$cgroup/cgroup.procs"
chown -R "$id:$id" "/sys/fs/cgroup/$cgroup/user"

mount -t proc proc /proc

# /etc is a copy, in which the user is known.
mkdir "$folder/etc"
mount -t tmpfs -o mode=755 tmpfs "$folder/etc"
cp -a /etc/. "$folder/etc/"
mount --bind "$folder/etc" /etc
for file in passwd group subuid subgid; do
    touch "/etc/$file"
    sed -i "/^$user:/d" "/etc/$file"
done
echo "$user:x:$id:$id::/home/$user:/bin/bash" >> /etc/passwd
echo "$user:x:$id:" >> /etc/group
echo "$user:$first:65536" | tee -a /etc/subuid >> /etc/subgid
# It may be a link, and name servers that can't be reached from here. The client's place stands for the Internet.
rm -f /etc/resolv.conf
echo "nameserver $6" > /etc/resolv.conf
rm -rf /etc/rprox

mkdir "$folder/home"
install -d -m 700 -o "$id" -g "$id" "$folder/home/$user"
mount --bind "$folder/home" /home
for place in /run/user /run/systemd /run/containers /var/lib/containers /dev/net /usr/local/bin; do
    mkdir -p "$place"
    mount -t tmpfs -o mode=755 tmpfs "$place"
done
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
install -d -m 700 -o "$id" -g "$id" "/run/user/$id"
# By this programs know that systemd is there, as far as the user's manager goes.
mkdir /run/systemd/system
mknod -m 666 /dev/net/tun c 10 200

mount -t bpf bpf /sys/fs/bpf

# As on a host that systemd booted: Podman's mounts go on into the containers.
mount --make-rshared /
# Takes in the processes that lose their parent, and does nothing else.
exec catatonit -P
