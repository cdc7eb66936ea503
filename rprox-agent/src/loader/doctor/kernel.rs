//! What the kernel can do, and what each mode needs of it.

#![forbid(unsafe_code)]

use std::path::Path;

use aya::programs::ProgramType;
use aya::sys::is_program_supported;
use rprox_common::Protocol;

use super::setting;
use crate::findings::Finding;
use crate::loader::cgroup;
use crate::loader::config::Policy;
use crate::loader::hook::HookChoice;
use crate::loader::mode::ModeChoice;
use crate::loader::owner::Owner;

/// The oldest kernel that the tests run under.
const TESTED: (u32, u32) = (6, 1);
/// The first with TCX.
const TCX: (u32, u32) = (6, 6);
/// The first that tells network namespaces apart by a cookie, in the programs that need it.
const COOKIE: (u32, u32) = (5, 14);

const BTF: &str = "/sys/kernel/btf/vmlinux";
const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";

/// What takes a kind of program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    /// The programs in the packets' path: all modes but `grant`.
    Packets,
    /// Mode `steer`.
    Steer,
    /// The port guard, and mode `grant`.
    Guard,
}

/// The kinds of programs: the name, the kernel option, what takes it.
const KINDS: [(ProgramType, &str, &str, User); 4] = [
    (ProgramType::SchedClassifier, "sched_cls", "CONFIG_NET_CLS_ACT", User::Packets),
    (ProgramType::SkLookup, "sk_lookup", "CONFIG_INET", User::Steer),
    (ProgramType::SockOps, "sock_ops", "CONFIG_CGROUP_BPF", User::Steer),
    (ProgramType::CgroupSockAddr, "cgroup_sock_addr", "CONFIG_CGROUP_BPF", User::Guard),
];

/// What is there.
pub(super) struct Kernel {
    /// As `uname -r` says.
    release: String,
    /// Whether each of [`KINDS`] is there; `None` where the kernel does not say.
    kinds: [Option<bool>; KINDS.len()],
    btf: bool,
    /// `net.core.bpf_jit_enable`; `None` where there is no such setting.
    jit: Option<u32>,
    /// Why there is no root of cgroup2, if there is none.
    no_cgroup: Option<String>,
}

impl Kernel {
    pub(super) fn read() -> Self {
        Self {
            release: rustix::system::uname().release().to_string_lossy().into_owned(),
            kinds: KINDS.map(|(kind, ..)| is_program_supported(kind).ok()),
            btf: Path::new(BTF).exists(),
            jit: setting(JIT).ok().flatten(),
            no_cgroup: cgroup::root().err().map(|error| error.to_string()),
        }
    }
}

/// Whether mode `steer` is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Steer {
    No,
    /// By `--mode auto`, which does without it.
    IfPossible,
    /// By `--mode steer`.
    Yes,
}

/// What is wanted of the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wants {
    hook: HookChoice,
    packets: bool,
    steer: Steer,
    guard: bool,
}

impl Wants {
    /// What `policies` ask for.
    pub(super) fn of(hook: HookChoice, policies: &[&Policy]) -> Self {
        let steer = |policy: &&Policy| match policy.mode {
            ModeChoice::Steer => Steer::Yes,
            ModeChoice::Auto if policy.rules.as_slice().iter().any(|rule| rule.protocol == Protocol::Tcp) => {
                Steer::IfPossible
            }
            _ => Steer::No,
        };
        Self {
            hook,
            packets: policies.iter().any(|policy| policy.mode != ModeChoice::Grant),
            steer: policies.iter().map(steer).max().unwrap_or(Steer::No),
            guard: policies.iter().any(|policy| policy.owner != Some(Owner::Any)),
        }
    }

    /// What to say of something that is missing and that `user` needs: nothing where nobody asked for that.
    fn miss(self, user: User, check: &str, found: &str, remedy: &str) -> Option<Finding> {
        let without = match user {
            User::Packets => "use `--mode grant`",
            User::Steer => "use `--mode rewrite`",
            User::Guard => "use `--mode rewrite --owner any`, which has no port guard",
        };
        let wanted = match user {
            User::Packets => self.packets,
            User::Steer => self.steer == Steer::Yes,
            User::Guard => self.guard,
        };
        if wanted {
            return Some(Finding::fault(check, found, format!("{remedy}, or {without}")));
        }
        let gives_way = user == User::Steer && self.steer == Steer::IfPossible;
        gives_way.then(|| {
            Finding::warning(
                check,
                format!("{found}: mode steer won't do, and `--mode auto` takes rewrite"),
                format!("{remedy}, or leave it so: rewrite costs a little more for each packet"),
            )
        })
    }
}

pub(super) fn check(kernel: &Kernel, wants: Wants) -> Vec<Finding> {
    let mut findings = version(&kernel.release, wants);
    for ((_, name, option, user), there) in KINDS.iter().zip(kernel.kinds) {
        if there == Some(false) {
            let found = format!("the kernel has no {name} programs");
            let remedy = format!("take one that is built with {option} (and CONFIG_BPF_SYSCALL)");
            findings.extend(wants.miss(*user, "kernel", &found, &remedy));
        }
    }
    if let Some(reason) = &kernel.no_cgroup {
        let remedy = "mount one: `mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified`";
        let user = if wants.guard { User::Guard } else { User::Steer };
        findings.extend(wants.miss(user, "cgroup2", reason, remedy));
    } else if wants.guard || wants.steer != Steer::No {
        findings.push(Finding::fine("cgroup2", "mounted"));
    }
    findings.push(match kernel.jit {
        Some(0) => Finding::warning(
            "bpf jit",
            "the kernel interprets programs, which takes many times longer for each packet",
            "run `sysctl -w net.core.bpf_jit_enable=1`, and put it into /etc/sysctl.d",
        ),
        _ => Finding::fine("bpf jit", "on"),
    });
    findings.push(Finding::fine(
        "btf",
        if kernel.btf { "there" } else { "none of the kernel; rprox needs none, bpftool shows less" },
    ));
    findings
}

fn version(release: &str, wants: Wants) -> Vec<Finding> {
    let check = "kernel";
    let Some(version) = parse(release) else {
        let found = format!("its version can't be told from {release:?}");
        return vec![Finding::warning(check, found, "see that it is Linux 6.1 or later")];
    };
    if version < COOKIE && (wants.guard || wants.steer == Steer::Yes) {
        let remedy = "update it, or use `--mode rewrite --owner any`";
        let found = format!("Linux {release}: the port guard and mode steer need 5.14 or later");
        return vec![Finding::fault(check, found, remedy)];
    }
    let mut findings = Vec::new();
    if version < TESTED {
        let found = format!("Linux {release}: rprox is tested under 6.1 and later");
        findings.push(Finding::warning(
            check,
            found,
            "update it, or see that all works, by `rprox-loader verify`",
        ));
    }
    if version < TCX && wants.packets {
        let found =
            format!("Linux {release}: TCX came with 6.6, though some distributions have it in older ones");
        findings.push(match wants.hook {
            HookChoice::Tcx => Finding::fault(check, found, "leave --hook out: clsact serves instead"),
            HookChoice::Auto | HookChoice::Clsact => Finding::fine(
                check,
                format!("Linux {release}: by clsact, unless it has TCX, which came with 6.6"),
            ),
        });
    } else if findings.is_empty() {
        findings.push(Finding::fine(check, format!("Linux {release}")));
    }
    findings
}

/// Major and minor version of a kernel's release, such as `6.1.0-18-cloud-amd64`.
fn parse(release: &str) -> Option<(u32, u32)> {
    let (major, rest) = release.split_once('.')?;
    let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Severity::{self, Fault, Fine, Warning};

    fn kernel(release: &str) -> Kernel {
        let kinds = [Some(true); KINDS.len()];
        Kernel { release: release.to_owned(), kinds, btf: true, jit: Some(1), no_cgroup: None }
    }

    fn wants(mode: ModeChoice, owner: Owner) -> Wants {
        let policy = Policy { mode, owner: Some(owner), ..Policy::default() };
        Wants::of(HookChoice::Auto, &[&policy])
    }

    fn worst(kernel: &Kernel, wants: Wants) -> Severity {
        check(kernel, wants).iter().map(|finding| finding.severity).max().unwrap()
    }

    #[test]
    fn versions() {
        assert_eq!(parse("6.1.0-18-cloud-amd64"), Some((6, 1)));
        assert_eq!(parse("5.14-rc1"), Some((5, 14)));
        assert_eq!(parse("6"), None);
        let auto = wants(ModeChoice::Auto, Owner::User(1000));
        for (release, severity) in
            [("6.18.44", Fine), ("6.1.0", Fine), ("5.15.0", Warning), ("5.10.0", Fault)]
        {
            assert_eq!(worst(&kernel(release), auto), severity, "{release}");
        }
        assert_eq!(worst(&kernel("5.10.0"), wants(ModeChoice::Rewrite, Owner::Any)), Warning);
        assert_eq!(worst(&kernel("6.1.0"), Wants { hook: HookChoice::Tcx, ..auto }), Fault);
    }

    #[test]
    fn what_is_missing_matters_to_the_mode_that_needs_it() {
        let lacks = |place: usize| {
            let mut kernel = kernel("6.18.0");
            kernel.kinds[place] = Some(false);
            kernel
        };
        let any = Owner::Any;
        let (packets, sk_lookup, bind) = (lacks(0), lacks(1), lacks(3));
        assert_eq!(worst(&packets, wants(ModeChoice::Rewrite, any)), Fault);
        assert_eq!(worst(&packets, wants(ModeChoice::Grant, Owner::User(1))), Fine);
        assert_eq!(worst(&sk_lookup, wants(ModeChoice::Steer, any)), Fault);
        assert_eq!(worst(&sk_lookup, wants(ModeChoice::Auto, any)), Warning);
        assert_eq!(worst(&sk_lookup, wants(ModeChoice::Rewrite, any)), Fine);
        assert_eq!(worst(&bind, wants(ModeChoice::Rewrite, Owner::User(1))), Fault);
        assert_eq!(worst(&bind, wants(ModeChoice::Rewrite, any)), Fine);
    }

    #[test]
    fn cgroup_and_jit() {
        let no_cgroup = Kernel { no_cgroup: Some("none".to_owned()), ..kernel("6.18.0") };
        assert_eq!(worst(&no_cgroup, wants(ModeChoice::Auto, Owner::User(1))), Fault);
        assert_eq!(worst(&no_cgroup, wants(ModeChoice::Auto, Owner::Any)), Warning);
        assert_eq!(worst(&no_cgroup, wants(ModeChoice::Rewrite, Owner::Any)), Fine);
        let no_jit = Kernel { jit: Some(0), ..kernel("6.18.0") };
        assert_eq!(worst(&no_jit, wants(ModeChoice::Auto, Owner::Any)), Warning);
    }
}
