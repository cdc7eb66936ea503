//! How much memory the control group lets its processes have (cgroup v2).

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

/// The least limit of this process's group and of those that it is in, as far as they can be seen; `None` where there is none.
pub(super) fn limit() -> Option<u64> {
    let read = |path| fs::read_to_string(path).ok();
    least(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)
}

fn least(groups: &str, mounts: &str) -> Option<u64> {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (root, top) = mounts.lines().find_map(mount)?;
    // Of a container's own cgroup namespace the group is `/`; without one the mount's root is the group itself.
    let below = Path::new(group).strip_prefix(root).unwrap_or(Path::new(""));
    let groups = below.ancestors().map(|below| top.join(below));
    groups
        .flat_map(|group| ["memory.max", "memory.high"].map(|file| group.join(file)))
        .filter_map(bytes)
        .min()
}

/// The root and the place of a mount of cgroup2 (proc(5), "mountinfo").
fn mount(line: &str) -> Option<(&str, PathBuf)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, place) = (fields.next()?, fields.next()?);
    filesystem.starts_with("cgroup2 ").then(|| (root, place.into()))
}

fn bytes(file: PathBuf) -> Option<u64> {
    // `max` stands for no limit.
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(group: &str, root: &str, limits: &[(&str, &str)]) -> Option<u64> {
        let top = tempfile::tempdir().unwrap();
        for (file, limit) in limits {
            let file = top.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, format!("{limit}\n")).unwrap();
        }
        let mounts = format!(
            "30 23 0:28 / /sys rw - sysfs sysfs rw\n31 30 0:29 {root} {} rw,relatime - cgroup2 cgroup2 rw\n",
            top.path().display()
        );
        least(&format!("4:memory:/x\n0::{group}\n"), &mounts)
    }

    #[test]
    fn the_least_on_the_way_up_counts() {
        let limits = [("memory.max", "max"), ("a/memory.max", "1000"), ("a/b/memory.max", "2000")];
        assert_eq!(limited("/a/b", "/", &limits), Some(1000));
        assert_eq!(limited("/a/b/c", "/", &limits), Some(1000));
        assert_eq!(limited("/b", "/", &limits), None);
    }

    #[test]
    fn what_slows_the_processes_down_counts_too() {
        assert_eq!(limited("/", "/", &[("memory.max", "2000"), ("memory.high", "1500")]), Some(1500));
    }

    #[test]
    fn a_container_sees_its_own_group_at_the_top() {
        assert_eq!(limited("/", "/", &[("memory.max", "2000")]), Some(2000));
        assert_eq!(limited("/pods/a", "/pods/a", &[("memory.max", "2000")]), Some(2000));
        assert_eq!(limited("/", "/../..", &[("memory.max", "2000")]), Some(2000));
    }

    #[test]
    fn without_cgroup2_there_is_none() {
        assert_eq!(least("4:memory:/x\n", "31 30 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"), None);
        assert_eq!(least("0::/\n", "30 23 0:28 / /sys rw - sysfs sysfs rw\n"), None);
    }
}
