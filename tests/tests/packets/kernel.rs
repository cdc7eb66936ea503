//! The kernel programs, loaded but attached to nothing, and run on frames by `BPF_PROG_TEST_RUN`.

use std::net::IpAddr;

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, PerCpuArray, PerCpuValues},
    programs::{SchedClassifier, TcAttachType, TestRun, TestRunOptions, tc::qdisc_add_clsact},
};
use rprox_common::{
    Address, AddressSlot, AttachmentCounters, PortEntries, PortEntry, PortKind, Protocol, RuleCounters,
    State, global, map, port_index, program,
};

/// What a program said of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// On to the next program, with these bytes.
    Next(Vec<u8>),
    /// Dropped.
    Drop,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    fn program(self) -> &'static str {
        match self {
            Self::Ingress => program::INGRESS,
            Self::Egress => program::EGRESS,
        }
    }
}

/// The addresses that every test's host has.
const LOCAL: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// The rules that every test has, each FROM, TO and protocol; a rule's place is that of its counters.
pub(crate) const RULES: [(u16, u16, Protocol); 3] =
    [(80, 8080, Protocol::Tcp), (443, 8443, Protocol::Tcp), (443, 8443, Protocol::Udp)];

pub(crate) struct Kernel {
    ebpf: Ebpf,
}

impl Kernel {
    pub(crate) fn new() -> Self {
        Self::with_link_header(14)
    }

    pub(crate) fn with_link_header(len: u32) -> Self {
        let path = std::env::var("RPROX_EBPF_OBJECT").expect("cargo sets it: see .cargo/config.toml");
        let object = std::fs::read(&path)
            .unwrap_or_else(|error| panic!("{path}: {error}; run `cargo xtask build` first"));
        let mut ebpf = EbpfLoader::new()
            .override_global(global::LINK_HEADER_LEN, &len, true)
            .load(&object)
            .expect("this test loads kernel programs, so it needs root");
        for name in [program::INGRESS, program::EGRESS] {
            Self::classifier(&mut ebpf, name).load().expect("the verifier takes the program");
        }
        let mut kernel = Self { ebpf };
        for address in LOCAL {
            kernel.add_address(address.parse().expect("an address"));
        }
        kernel.write_rules(0, &RULES);
        kernel
    }

    /// Makes `address` one of this host's. Of those that share a place the first stands in it.
    pub(crate) fn add_address(&mut self, address: IpAddr) {
        let address = Address::from(address);
        let mut addresses: HashMap<_, Address, u8> = self.map(map::LOCAL_ADDRESSES);
        addresses.insert(address, 1, 0).expect("the map takes an address");
        let mut slots: Array<_, AddressSlot> = self.map(map::ADDRESS_SLOTS);
        let place = address.slot();
        if slots.get(&place, 0).expect("the map has all places").used == 0 {
            slots.set(place, AddressSlot::with(address), 0).expect("the map takes an address");
        }
    }

    /// Writes a generation of rules, without putting it in force.
    pub(crate) fn write_rules(&mut self, generation: usize, rules: &[(u16, u16, Protocol)]) {
        let mut ports: Array<_, PortEntries> = self.map(map::PORTS);
        for (rule, &(from, to, protocol)) in (0..).zip(rules) {
            let mut set = |port, entry| {
                let index = port_index(protocol, port);
                let mut entries = ports.get(&index, 0).expect("the map has an entry for each port");
                entries.0[generation] = entry;
                ports.set(index, entries, 0).expect("the map takes an entry");
            };
            set(from, PortEntry::new(PortKind::From, rule, to));
            set(to, PortEntry::new(PortKind::To, rule, from));
        }
    }

    /// Entries that only lead from one port to another: with one each way, a frame's port can be changed for ever.
    #[allow(dead_code, reason = "for the benchmark")]
    pub(crate) fn write_entries(&mut self, kind: PortKind, rules: &[(u16, u16, Protocol)]) {
        let mut ports: Array<_, PortEntries> = self.map(map::PORTS);
        for (rule, &(from, to, protocol)) in (0..).zip(rules) {
            let entries = PortEntries([PortEntry::new(kind, rule, to), PortEntry::default()]);
            ports.set(port_index(protocol, from), entries, 0).expect("the map takes an entry");
        }
    }

    /// Runs a program `repeat` times on `frame`, each time on what the last has made of it.
    #[allow(dead_code, reason = "for the benchmark")]
    pub(crate) fn repeat(&mut self, direction: Direction, frame: &[u8], repeat: u32) {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
        let program = Self::classifier(&mut self.ebpf, direction.program());
        program.test_run(options).expect("BPF_PROG_TEST_RUN takes the frame");
    }

    pub(crate) fn set_state(&mut self, state: State) {
        self.map::<Array<_, State>>(map::STATE).set(0, state, 0).expect("the map takes a state");
    }

    pub(crate) fn run(&mut self, direction: Direction, frame: &[u8]) -> Verdict {
        // The kernel copies headroom and frags as they are; 64 KiB holds what it gives back.
        let mut out = vec![0; 65_536];
        let result = Self::classifier(&mut self.ebpf, direction.program())
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                repeat: 1,
                ..TestRunOptions::default()
            })
            .expect("BPF_PROG_TEST_RUN takes the frame");
        match result.return_value.cast_signed() {
            -1 => {
                out.truncate(usize::try_from(result.data_size_out).expect("fits"));
                Verdict::Next(out)
            }
            2 => Verdict::Drop,
            other => panic!("the program returned {other}"),
        }
    }

    /// Attaches the programs to an interface of this thread's network namespace, for as long as this lives.
    pub(crate) fn attach(&mut self, interface: &str) {
        if !rprox_tests::kernel::is_at_least(6, 6) {
            qdisc_add_clsact(interface)
                .expect("this test attaches without TCX here, so it needs sch_ingress");
        }
        for (name, attach_type) in
            [(program::INGRESS, TcAttachType::Ingress), (program::EGRESS, TcAttachType::Egress)]
        {
            Self::classifier(&mut self.ebpf, name)
                .attach(interface, attach_type)
                .expect("this test attaches programs, so it needs root");
        }
    }

    /// The instructions that the verifier walked through before it took the program.
    pub(crate) fn verified_instructions(&mut self, direction: Direction) -> u32 {
        let info =
            Self::classifier(&mut self.ebpf, direction.program()).info().expect("the program is loaded");
        info.verified_instruction_count().expect("Linux 5.16 and later count them")
    }

    pub(crate) fn rule_counters(&mut self, rule: u32) -> RuleCounters {
        let counters: PerCpuArray<_, RuleCounters> = self.map(map::RULE_COUNTERS);
        sum(&counters.get(&rule, 0).expect("the rule has counters"))
    }

    pub(crate) fn counters(&mut self) -> AttachmentCounters {
        let counters: PerCpuArray<_, AttachmentCounters> = self.map(map::COUNTERS);
        sum(&counters.get(&0, 0).expect("the attachment has counters"))
    }

    fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
        ebpf.program_mut(name).expect("the object has the program").try_into().expect("it is a classifier")
    }

    fn map<'a, M>(&'a mut self, name: &str) -> M
    where
        M: TryFrom<&'a mut aya::maps::Map, Error = aya::maps::MapError>,
    {
        self.ebpf
            .map_mut(name)
            .expect("the object has the map")
            .try_into()
            .expect("the map has the type that the loader expects")
    }
}

fn sum<T: aya::Pod + Default + std::ops::AddAssign>(values: &PerCpuValues<T>) -> T {
    let mut sum = T::default();
    for value in values.iter() {
        sum += *value;
    }
    sum
}
