//! Routes by labels, as they can be asked for.

use super::*;

const SOCKET: &str = "[podman]\nsocket = 'unix:/run/user/1000/podman/podman.sock'\n";

#[test]
fn labels_need_a_socket_and_networks_and_no_route() {
    let toml = format!("{SOCKET}networks = ['pods', 'others']\nhosts = ['*.Apps.example']\nstale = '10m'\n");
    let podman = load(&toml, &[]).unwrap().podman.unwrap();
    assert_eq!(podman.socket, PathBuf::from("/run/user/1000/podman/podman.sock"));
    assert_eq!(podman.networks, ["pods", "others"]);
    assert_eq!((podman.resync, podman.stale), (Duration::from_mins(1), Duration::from_mins(10)));
    assert!(podman.allows("wiki.apps.example"));
    assert!(!podman.allows("apps.example") && !podman.allows("a.wiki.apps.example"));
}

#[test]
fn each_mistake_has_its_reason() {
    for (toml, reason) in [
        (SOCKET.to_owned(), "missing field `networks`"),
        (format!("{SOCKET}networks = []"), "name the networks"),
        (format!("{SOCKET}networks = ['../x']"), "\"../x\" is no network"),
        (format!("{SOCKET}networks = ['pods']\nhosts = ['a b']"), "\"a b\" is not a host"),
        (format!("{SOCKET}networks = ['pods']\nresync = '0s'"), "must be more than zero"),
        ("[podman]\nsocket = 'tcp://127.0.0.1:1'\nnetworks = ['pods']".to_owned(), "is no socket"),
    ] {
        let error = load(&toml, &[]).unwrap_err();
        assert!(error.contains(reason), "{toml}: {error}");
    }
}
