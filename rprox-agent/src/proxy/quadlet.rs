//! `rprox-agent quadlet`: the units that run the agent in a container for one configuration, as Podman's Quadlet takes them.
//!
//! They are those in `deploy/quadlet`, with the configuration's own addresses, files and times.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf, absolute};
use std::time::Duration;
use std::{fmt, fs};

use clap::Args;
use thiserror::Error;
use toml::{Table, Value};

use super::config::{AdminListen, Config, ConfigError, Flags, PodmanConfig, named_files};

const NETWORK: &str = include_str!("../../../deploy/quadlet/pod_network.network");
const CONTAINER: &str = include_str!("../../../deploy/quadlet/rprox.container");
const HTTP: &str = include_str!("../../../deploy/quadlet/rprox-http.socket");
const HTTPS: &str = include_str!("../../../deploy/quadlet/rprox-https.socket");

/// What a container has for keys and certificates that must outlive it, where the configuration names no folder.
const STATE: &str = "Volume=rprox-state:/var/lib/rprox:U\n";

/// Folders that a container has itself, and can write to.
const OWN: [&str; 5] = ["/dev/shm", "/run", "/tmp", "/var/lib/rprox", "/var/tmp"];

/// How many links a file may be behind, as in the kernel.
const MOST_LINKS: usize = 40;

/// Beyond `drain_timeout`: for Podman to stop the container, and then for systemd to stop Podman.
const GRACE: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(15)];

/// The flags of `quadlet`.
#[derive(Args, Debug)]
pub struct QuadletArgs {
    /// The configuration file, where the agent's user has it
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,

    /// The Podman network that the services are on
    #[arg(long, value_name = "NAME", default_value = "pod_network")]
    network: String,

    /// The agent's image
    #[arg(long, default_value = "localhost/rprox-agent")]
    image: String,
}

/// Why there are no units.
#[derive(Debug, Error)]
pub enum QuadletError {
    /// The configuration is wrong.
    #[error("the configuration is refused:\n{0}")]
    Config(#[from] ConfigError),
    /// A file or folder.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// A path that a unit can't hold.
    #[error("{}: a unit can't name a path with a space, a colon, a per cent or a quotation mark in it", .0.display())]
    Path(PathBuf),
    /// The admin listener's socket lies where the container may not write.
    #[error(
        "admin.listen: the container can't write to {}, where the configuration or a file that it names is; give the socket another folder",
        .0.display()
    )]
    Admin(PathBuf),
    /// Standard output.
    #[error("writing to standard output: {0}")]
    Output(#[source] io::Error),
}

/// A unit file.
struct Unit {
    name: String,
    text: String,
}

impl fmt::Display for Unit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "# FileName={}\n{}", self.name, self.text)
    }
}

/// Writes the units to standard output.
///
/// # Errors
///
/// When the configuration is refused, or can't be put into units.
pub fn write(args: &QuadletArgs) -> Result<(), QuadletError> {
    let units: Vec<_> = units(args)?.iter().map(ToString::to_string).collect();
    write!(io::stdout(), "{}", units.join("---\n")).map_err(QuadletError::Output)
}

fn units(args: &QuadletArgs) -> Result<Vec<Unit>, QuadletError> {
    let file =
        absolute(&args.config).map_err(|error| QuadletError::File { path: args.config.clone(), error })?;
    let config = Config::load(&Flags { config: Some(file.clone()), ..Flags::default() })?;
    let network = Unit {
        name: format!("{}.network", args.network),
        text: NETWORK.replace("pod_network", &args.network),
    };
    let sockets = [
        ("rprox-http.socket", HTTP, &config.listen.http),
        ("rprox-https.socket", HTTPS, &config.listen.https),
    ]
    .into_iter()
    .filter(|(_, _, addresses)| !addresses.is_empty())
    .map(|(name, template, addresses)| {
        let lines: Vec<_> = addresses.iter().map(|address| format!("ListenStream={address}\n")).collect();
        let streams = lines.concat();
        let (before, after) = template.split_once("ListenStream=").unwrap_or((template, ""));
        let after = after.split_once('\n').map_or("", |(_, after)| after);
        Unit { name: name.to_owned(), text: format!("{before}{streams}{after}") }
    });
    let mut units = vec![network];
    units.extend(sockets);
    let names: Vec<_> = units[1..].iter().map(|unit| unit.name.as_str()).collect();
    let container =
        Unit { name: "rprox.container".to_owned(), text: container(args, &file, &config, &names.join(" "))? };
    units.push(container);
    Ok(units)
}

fn container(
    args: &QuadletArgs,
    file: &Path,
    config: &Config,
    sockets: &str,
) -> Result<String, QuadletError> {
    let failed = |error| QuadletError::File { path: file.to_owned(), error };
    let table: Table = fs::read_to_string(file)
        .map_err(failed)?
        .parse()
        .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))?;
    let home = file.parent().unwrap_or(file);
    let named = named_files(&table, home).into_iter().chain([file.to_owned()]);
    let folders: BTreeSet<_> = named.flat_map(|file| folders(&file)).collect();
    // What lies in another is there with it.
    let outer = |folder: &&PathBuf| !folder.ancestors().skip(1).any(|above| folders.contains(above));
    let volume = |folder: &PathBuf| format!("Volume={0}:{0}:ro,Z\n", folder.display());
    let volumes = folders.iter().filter(outer).map(volume).collect::<Vec<_>>().concat();
    let state = table.get("state").and_then(Value::as_str).map(|path| home.join(path));
    let socket = config.podman.as_ref().map(|podman| podman.socket.as_path());
    let admin = admin_folder(config);
    if let Some(admin) = admin.filter(|admin| folders.contains(*admin)) {
        return Err(QuadletError::Admin(admin.to_owned()));
    }
    let files = [file].into_iter().chain(state.as_deref()).chain(socket).chain(admin);
    if let Some(path) = folders.iter().map(PathBuf::as_path).chain(files).find(|path| !is_plain(path)) {
        return Err(QuadletError::Path(path.to_owned()));
    }
    let admin = admin.filter(|admin| state.as_deref() != Some(*admin));
    let state = state.map_or_else(|| STATE.to_owned(), |path| format!("Volume={0}:{0}:Z\n", path.display()));
    let (made, admin) = admin.map(Path::display).map_or_else(Default::default, |admin| {
        (format!("ExecStartPre=/usr/bin/mkdir -p -m 700 {admin}\n"), format!("Volume={admin}:{admin}:Z\n"))
    });
    let podman = config.podman.as_ref().map_or_else(String::new, |podman| podman_keys(podman, &args.network));
    let [stop, end] = GRACE.map(|grace| (config.drain_timeout + grace).as_secs());
    Ok(CONTAINER
        .replace("pod_network", &args.network)
        .replace("Image=localhost/rprox-agent", &format!("Image={}", args.image))
        .replace("rprox-http.socket rprox-https.socket", sockets)
        .replace(
            "Volume=%h/.config/rprox:/etc/rprox:ro,Z\n",
            &format!("{volumes}Exec=run --config {}\n", file.display()),
        )
        .replace(STATE, &format!("{state}{admin}{podman}"))
        .replace("[Service]\n", &format!("[Service]\n{made}"))
        .replace("--stop-timeout 35", &format!("--stop-timeout {stop}"))
        .replace("TimeoutStopSec=45", &format!("TimeoutStopSec={end}"))
        .replace("drain_timeout, which is 30 s by default", "drain_timeout"))
}

/// The folder of the admin listener's socket, where the host is to have it too.
fn admin_folder(config: &Config) -> Option<&Path> {
    match &config.admin.listen {
        AdminListen::Unix(socket) if config.admin.is_explicit => {
            socket.parent().filter(|folder| !OWN.iter().any(|own| *folder == Path::new(own)))
        }
        _ => None,
    }
}

/// What a container needs to follow Podman: the networks that labels may be on, and the socket.
fn podman_keys(podman: &PodmanConfig, network: &str) -> String {
    let others = podman.networks.iter().filter(|other| *other != network);
    let networks = others.map(|other| format!("Network={other}\n")).collect::<Vec<_>>().concat();
    // The folder, since the socket in it is another one once its unit has been started anew. By its label SELinux would let no
    // container use the socket.
    let folder = podman.socket.parent().unwrap_or(&podman.socket).display();
    format!("{networks}Volume={folder}:{folder}\nSecurityLabelDisable=true\n")
}

/// The folders that it takes to open `file`: its own, and where it is a link, as certbot's are, that of what it leads to.
fn folders(file: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let mut file = plain(file);
    for _ in 0..MOST_LINKS {
        let folder = file.parent().unwrap_or(&file).to_owned();
        let target = fs::read_link(&file).map(|target| plain(&folder.join(target)));
        folders.insert(folder);
        let Ok(target) = target else { break };
        file = target;
    }
    folders
}

/// `path` without `..`, as it is found in a container, where no folder on the way is a link.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

/// Whether a unit can hold the path as it is.
fn is_plain(path: &Path) -> bool {
    path.to_str().is_some_and(|path| !path.contains([' ', ':', '%', '"', '\'', '\\', '\n']))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const CONFIGURATION: &str = "drain_timeout = \"1m\"\nstate = \"/srv/state\"\n[listen]\nhttp = [\"[::]:8080\", \"127.0.0.1:9080\"]\n\
                                 [[route]]\nhost = \"a.example\"\nupstream = \"a:80\"\n";

    fn units_of(text: &str) -> Vec<Unit> {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("rprox.toml");
        fs::write(&config, text).unwrap();
        let args = QuadletArgs { config, network: "apps".to_owned(), image: "localhost/x:1".to_owned() };
        units(&args).unwrap()
    }

    #[test]
    fn the_units_are_for_the_configuration_s_own_addresses_files_and_times() {
        let units = units_of(CONFIGURATION);
        let names: Vec<_> = units.iter().map(|unit| unit.name.as_str()).collect();
        assert_eq!(names, ["apps.network", "rprox-http.socket", "rprox.container"]);
        assert!(units[0].text.contains("NetworkName=apps\n"));
        assert!(
            units[1]
                .text
                .contains("\nListenStream=[::]:8080\nListenStream=127.0.0.1:9080\nBindIPv6Only=both\n")
        );
        let container = &units[2].text;
        for line in [
            "Image=localhost/x:1\n",
            "Network=apps.network\n",
            "TimeoutStopSec=75\n",
            "Volume=/srv/state:/srv/state:Z\n",
            "Requires=rprox-http.socket\n",
        ] {
            assert!(container.contains(line), "{line}: {container}");
        }
        assert!(container.contains("--stop-timeout 65\n"), "{container}");
        let exec = container.lines().find_map(|line| line.strip_prefix("Exec=run --config ")).unwrap();
        let folder = Path::new(exec).parent().unwrap().display();
        assert!(container.contains(&format!("Volume={folder}:{folder}:ro,Z\n")), "{container}");
    }

    #[test]
    fn the_admin_socket_is_the_host_s_too() {
        let container =
            |admin: &str| units_of(&format!("admin.listen = '{admin}'\n{CONFIGURATION}")).remove(2).text;
        let text = container("unix:/run/user/1000/rprox/agent.sock");
        for line in [
            "Volume=/run/user/1000/rprox:/run/user/1000/rprox:Z\n",
            "[Service]\nExecStartPre=/usr/bin/mkdir -p -m 700 /run/user/1000/rprox\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        let text = container("unix:/srv/state/agent.sock");
        assert_eq!(text.matches("/srv/state:").count(), 2, "once, as the state: {text}");
        for inside in ["127.0.0.1:9180", "unix:/tmp/agent.sock", "unix:/var/lib/rprox/agent.sock"] {
            assert!(!container(inside).contains("ExecStartPre"), "{inside}");
        }

        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("rprox.toml");
        let admin = format!("admin.listen = 'unix:{}/agent.sock'\n{CONFIGURATION}", folder.path().display());
        fs::write(&config, admin).unwrap();
        let args = QuadletArgs { config, network: "apps".to_owned(), image: "localhost/x:1".to_owned() };
        assert!(matches!(units(&args), Err(QuadletError::Admin(_))));
    }

    #[test]
    #[cfg(feature = "podman")]
    fn what_follows_podman_has_its_socket_and_the_networks_of_labels() {
        let units = units_of(
            "[podman]\nsocket = 'unix:/run/user/1000/podman/podman.sock'\nnetworks = ['apps', 'others']\n",
        );
        let container = &units[2].text;
        for line in [
            "Network=apps.network\n",
            "Network=others\n",
            "Volume=/run/user/1000/podman:/run/user/1000/podman\n",
            "SecurityLabelDisable=true\n",
        ] {
            assert!(container.contains(line), "{line}: {container}");
        }
    }

    #[test]
    fn files_elsewhere_come_along_with_their_folders_and_with_those_that_links_lead_to() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in ["web", "archive/a"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        fs::create_dir(at("live")).unwrap();
        symlink("../archive/a/cert1.pem", at("live/cert.pem")).unwrap();
        for (file, expected) in [
            ("web/rprox.toml", vec!["web"]),
            ("web/../ca.pem", vec![""]),
            ("web/../live/cert.pem", vec!["archive/a", "live"]),
            ("none/key.pem", vec!["none"]),
        ] {
            let expected: BTreeSet<_> = expected.into_iter().map(|path| plain(&at(path))).collect();
            assert_eq!(folders(&at(file)), expected, "{file}");
        }
    }

    #[test]
    fn a_path_that_would_end_early_in_a_unit_is_refused() {
        assert!(is_plain(Path::new("/home/web/.config/rprox")));
        for path in ["/a b", "/a:b", "/a%h", "/a\"b"] {
            assert!(!is_plain(Path::new(path)), "{path}");
        }
    }
}
