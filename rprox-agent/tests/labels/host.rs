//! A host with a Podman of its own, in namespaces that end with it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rprox_tests::load::{Closed, Load};
use rprox_tests::wait;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long anything that must happen may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program that runs on the host until it is told to end, or the host does.
pub(crate) struct Service(Child);

impl Service {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    /// Ends it at once.
    pub(crate) fn end(mut self) {
        // What entered the namespaces waits for the program itself, which is its child.
        let program = child_of(&self.0).parse().unwrap();
        kill_process(Pid::from_raw(program).unwrap(), Signal::KILL).unwrap();
        self.0.wait().unwrap();
    }
}

pub(crate) struct Host {
    init: Child,
    first: String,
    folder: TempDir,
}

impl Host {
    /// Boots one with an image, `localhost/web:1`, that is busybox and nothing else.
    pub(crate) fn boot() -> Self {
        for program in ["podman", "busybox", "curl", "nsenter", "unshare"] {
            let found = Command::new("which").arg(program).stdout(Stdio::null()).status().unwrap();
            assert!(found.success(), "no {program}: run `cargo xtask setup`");
        }
        let folder = tempfile::tempdir().unwrap();
        let init = Command::new("unshare")
            .args([
                "--mount",
                "--propagation=private",
                "--net",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .args(["bash", "-c", include_str!("host.sh"), "host"])
            .arg(folder.path())
            .spawn()
            .unwrap();
        let ready = folder.path().join("ready");
        until("the host to be ready (as root?)", || ready.exists().then_some(()));
        let first = child_of(&init);
        let host = Self { init, first, folder };
        let image = host.path("image");
        fs::create_dir_all(image.join("bin")).unwrap();
        fs::copy("/bin/busybox", image.join("bin/busybox")).unwrap();
        let script = format!(
            "tar -C {} -c . | podman --root {1}/root --runroot {1}/runroot --storage-driver vfs import - localhost/web:1",
            image.display(),
            host.folder.path().display()
        );
        run(host.command("sh").args(["-c", &script]));
        host
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command that runs `program` on it.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first, "--mount", "--net", "--pid", "--"]).arg(program.as_ref());
        command.env("CONTAINERS_CONF", self.path("containers.conf")).env_remove("XDG_RUNTIME_DIR");
        command
    }

    /// Steady requests for `host` to the agent.
    pub(crate) fn load(&self, host: &str) -> Load {
        let network = Path::new("/proc").join(&self.first).join("ns/net");
        // An agent that gives way closes kept connections when they are idle.
        Load::start_in(Closed::Reopens, &network, SocketAddr::from(([127, 0, 0, 1], 8080)), host)
    }

    /// Its `podman`, with these words.
    pub(crate) fn podman_command(&self, words: &str) -> Command {
        let mut command = self.command("podman");
        command.arg("--root").arg(self.path("root")).arg("--runroot").arg(self.path("runroot"));
        command.args(["--storage-driver", "vfs"]).args(words.split_whitespace());
        command
    }

    pub(crate) fn podman(&self, words: &str) {
        run(&mut self.podman_command(words));
    }

    /// Starts a container that takes connections on port 80 and never answers; `more` as for [`Self::web`].
    pub(crate) fn mute(&self, name: &str, more: &str) {
        let words = format!("run --detach --name {name} {more} localhost/web:1 /bin/busybox nc -ll -p 80 -e");
        run(self.podman_command(&words).args(["/bin/busybox", "sleep", "1h"]));
    }

    /// Starts a container that answers with its own name on port 80, for `/` and for what a load asks for; `more` are its labels and its network or pod.
    pub(crate) fn web(&self, name: &str, more: &str) {
        let serve =
            format!("busybox echo {name} | busybox tee /load > /index.html; exec busybox httpd -f -p 80");
        let mut command = self
            .podman_command(&format!("run --detach --name {name} {more} localhost/web:1 /bin/busybox sh -c"));
        run(command.arg(serve));
    }

    /// Makes a pod on `network`.
    pub(crate) fn pod(&self, name: &str, network: &str) {
        let words = format!(
            "pod create --name {name} --network {network} --infra-image localhost/web:1 --infra-command"
        );
        run(self.podman_command(&words).arg("/bin/busybox sleep 1h"));
    }

    /// Serves Podman's API, as its socket unit does.
    pub(crate) fn serve_api(&self) -> Service {
        let socket = self.path("podman.sock");
        let _ = fs::remove_file(&socket);
        let service = format!("system service --time 0 unix://{}", socket.display());
        let api = Service::start(&mut self.podman_command(&service));
        until("Podman's API to be there", || socket.exists().then_some(()));
        api
    }

    /// The answer's status and body to a request for `host`.
    pub(crate) fn get(&self, host: &str, path: &str) -> (String, String) {
        let mut command = self.command("curl");
        command.args(["--silent", "--max-time", "5", "--write-out", "\n%{http_code}"]);
        let answer = run(command.args([
            "--header",
            &format!("Host: {host}"),
            &format!("http://127.0.0.1:8080{path}"),
        ]));
        let (body, status) = answer.rsplit_once('\n').unwrap();
        (status.to_owned(), body.trim().to_owned())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // With the first process the kernel ends all others of its namespace.
        let _ = self.init.kill();
        let _ = self.init.wait();
    }
}

/// The process that `parent` started.
fn child_of(parent: &Child) -> String {
    let children = format!("/proc/{0}/task/{0}/children", parent.id());
    fs::read_to_string(children).unwrap().trim().to_owned()
}

/// Waits until `look` sees what it looks for.
pub(crate) fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait::until(PATIENCE, what, look).unwrap()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}
