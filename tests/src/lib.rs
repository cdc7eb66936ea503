//! What the scenarios and `cargo xtask run` share: a playground of network namespaces with a client, a host with a chosen
//! interface, and a pod network with real name service and real web servers.

#![forbid(unsafe_code)]

pub mod certificates;
pub mod checksum;
pub mod client;
pub mod command;
pub mod dns;
pub mod faults;
pub mod kernel;
pub mod load;
pub mod long;
pub mod netns;
pub mod playground;
pub mod pod;
pub mod process;
pub mod programs;
pub mod readme;
pub mod rootless;
pub mod run_dir;
pub mod sockets;
pub mod table;
pub mod topology;
pub mod wait;
