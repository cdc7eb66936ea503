//! The built program with a configuration of its own.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rprox_tests::wait;
use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

const BUILT: &str = env!("CARGO_BIN_EXE_rprox-agent");

/// How long anything that must happen may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running agent with a listener of each kind; a certificate for `secure.example` and `other.example`.
pub(crate) struct Agent {
    child: Child,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) certificate: Vec<u8>,
    log: Receiver<String>,
    /// Log lines from before it listened.
    early: Vec<String>,
    more: String,
    folder: TempDir,
}

impl Agent {
    /// Starts one with `routes` (host and upstream) and `more` of a configuration, and waits until it listens.
    pub(crate) fn start(routes: &[(&str, &str)], more: &str) -> Self {
        Self::start_with(2, routes, more)
    }

    /// Starts one with so many workers.
    pub(crate) fn start_with(workers: usize, routes: &[(&str, &str)], more: &str) -> Self {
        Self::start_as(workers, routes, more, &[])
    }

    /// The same with `environment` besides its own.
    pub(crate) fn start_as(
        workers: usize,
        routes: &[(&str, &str)],
        more: &str,
        environment: &[(&str, PathBuf)],
    ) -> Self {
        Self::launch(workers, routes, more, environment, |_| Command::new(BUILT))
    }

    /// Starts a copy of the program, which a test can replace.
    pub(crate) fn start_copy(routes: &[(&str, &str)], more: &str) -> Self {
        Self::launch(2, routes, more, &[], |folder| Command::new(copy_program(folder)))
    }

    /// Starts one by the command that `by` makes of its program's path.
    pub(crate) fn start_by(routes: &[(&str, &str)], more: &str, by: impl FnOnce(&str) -> Command) -> Self {
        Self::launch(2, routes, more, &[], |_| by(BUILT))
    }

    /// Starts one that may have so many files open, until it raises that.
    pub(crate) fn start_with_files(files: usize, routes: &[(&str, &str)]) -> Self {
        Self::launch(2, routes, "", &[], |_| {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("ulimit -Sn {files} && exec \"$0\" \"$@\""), BUILT]);
            shell
        })
    }

    fn launch(
        workers: usize,
        routes: &[(&str, &str)],
        more: &str,
        environment: &[(&str, PathBuf)],
        program: impl FnOnce(&Path) -> Command,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["secure.example".to_owned(), "other.example".to_owned()]).unwrap();
        fs::write(folder.path().join("cert.pem"), cert.pem()).unwrap();
        fs::write(folder.path().join("key.pem"), signing_key.serialize_pem()).unwrap();
        let (http, https) = (free_address(), free_address());
        let more = format!("workers = {workers}\n{more}");
        let configuration = configuration(folder.path(), http, https, routes, &more);
        let file = folder.path().join("rprox.toml");
        fs::write(&file, configuration).unwrap();
        let mut child = program(folder.path())
            .args(["run", "--allow-root", "-c"])
            .arg(file)
            .env("XDG_RUNTIME_DIR", folder.path())
            .envs(environment.iter().cloned())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, log) = mpsc::channel();
        follow(child.stdout.take().unwrap(), lines.clone());
        follow(child.stderr.take().unwrap(), lines);
        let certificate = cert.der().to_vec();
        let mut agent = Self { child, http, https, certificate, log, early: Vec::new(), more, folder };
        agent.early = agent.log_until(&format!("listening on {https}")).0;
        agent
    }

    /// Where its program is, of one that was started as a copy.
    pub(crate) fn program(&self) -> PathBuf {
        self.folder.path().join("rprox-agent")
    }

    /// Puts another file in the place of its program, as an installation does.
    pub(crate) fn replace_program(&self) {
        fs::remove_file(self.program()).unwrap();
        copy_program(self.folder.path());
    }

    /// The process that its admin listener belongs to.
    pub(crate) fn served_by(&self) -> i32 {
        let json = self.admin("/status.json").1;
        let status: serde_json::Value = serde_json::from_str(&json).unwrap();
        i32::try_from(status["pid"].as_i64().unwrap()).unwrap()
    }

    /// A file beside its configuration.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its configuration file.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("rprox.toml")
    }

    /// Its configuration, were it to have these routes.
    pub(crate) fn configuration(&self, routes: &[(&str, &str)]) -> String {
        configuration(self.folder.path(), self.http, self.https, routes, &self.more)
    }

    /// Replaces its configuration file in one step, as editors do.
    pub(crate) fn write(&self, configuration: &str) {
        let new = self.file().with_extension("new");
        fs::write(&new, configuration).unwrap();
        fs::rename(new, self.file()).unwrap();
    }

    /// Runs `rprox-agent ORDER` for it.
    pub(crate) fn order(&self, order: &str) -> Output {
        self.ordering(order).output().unwrap()
    }

    /// That command.
    pub(crate) fn ordering(&self, order: &str) -> Command {
        let mut command = Command::new(BUILT);
        command.args([order, "-c"]).arg(self.file()).env("XDG_RUNTIME_DIR", self.folder.path());
        command
    }

    /// The status and body of its admin listener's answer.
    pub(crate) fn admin(&self, path: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.folder.path().join("rprox/agent.sock")).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: admin\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Its metrics, once they have all of these lines: what a client has seen the end of, the agent may be yet to count.
    pub(crate) fn metrics_with(&self, wanted: &[impl AsRef<str>]) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let metrics = self.admin("/metrics").1;
            let has = |line: &str| metrics.lines().any(|known| known == line);
            let missing: Vec<_> = wanted.iter().map(AsRef::as_ref).filter(|line| !has(line)).collect();
            if missing.is_empty() {
                return metrics;
            }
            assert!(Instant::now() < deadline, "no {missing:#?} in\n{metrics}");
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next log line with `text` in it; the first may have come before it listened.
    pub(crate) fn logged(&mut self, text: &str) -> String {
        match self.early.iter().position(|line| line.contains(text)) {
            Some(place) => self.early.remove(place),
            None => self.log_until(text).1,
        }
    }

    /// The log lines up to the next with `text` in it, and that one.
    fn log_until(&mut self, text: &str) -> (Vec<String>, String) {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while let Ok(line) = self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if line.contains(text) {
                return (seen, line);
            }
            seen.push(line);
        }
        panic!("no log line with {text:?}; there are: {seen:#?}");
    }

    /// The lines logged so far that have not been asked for.
    pub(crate) fn log_lines(&self) -> Vec<String> {
        self.log.try_iter().collect()
    }

    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait::until(PATIENCE, "the agent to end", || child.try_wait().unwrap()).unwrap()
    }

    /// The most memory that it has had at once, in KiB.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // One that has taken its place is nobody's child, and ends with the test all the same.
        if self.program().exists()
            && UnixStream::connect(self.folder.path().join("rprox/agent.sock")).is_ok()
            && let Some(process) = Pid::from_raw(self.served_by())
        {
            let _ = kill_process(process, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn copy_program(folder: &Path) -> PathBuf {
    let program = folder.join("rprox-agent");
    // By another process: what this one has open to write, a child that is just being forked has too, and then it can't be run.
    assert!(Command::new("cp").args([Path::new(BUILT), &program]).status().unwrap().success());
    program
}

/// A loopback address that nobody listens on, and that nobody else is given while this process runs: it lies below the ports
/// that the kernel gives away, and other tests see by the name of a socket that it is taken.
pub(crate) fn free_address() -> SocketAddr {
    static TAKEN: Mutex<Vec<UnixDatagram>> = Mutex::new(Vec::new());
    const PORTS: Range<u16> = 10_000..32_000;
    let first = u16::try_from(std::process::id() * 97 % 22_000).unwrap();
    for place in PORTS {
        let port = PORTS.start + (place - PORTS.start + first) % 22_000;
        let name = UnixAddress::from_abstract_name(format!("rprox-test-port-{port}")).unwrap();
        let Ok(taken) = UnixDatagram::bind_addr(&name) else { continue };
        TAKEN.lock().unwrap().push(taken);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        // Bound and not listening, so that it is in nobody's way in a child that is being forked at this moment.
        let probe = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        probe.set_reuse_address(true).unwrap();
        if probe.bind(&address.into()).is_ok() {
            return address;
        }
    }
    panic!("no port is free");
}

fn follow(output: impl Read + Send + 'static, lines: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                break;
            }
        }
    });
}

fn configuration(
    folder: &Path,
    http: SocketAddr,
    https: SocketAddr,
    routes: &[(&str, &str)],
    more: &str,
) -> String {
    let folder = folder.display();
    let mut configuration = format!(
        "listen.http = \"{http}\"\nlisten.https = \"{https}\"\n{more}\n\
         [[certificate]]\ncert = \"{folder}/cert.pem\"\nkey = \"{folder}/key.pem\"\n"
    );
    for (host, upstream) in routes {
        writeln!(configuration, "[[route]]\nhost = \"{host}\"\nupstream = \"{upstream}\"").unwrap();
    }
    configuration
}
