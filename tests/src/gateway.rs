//! One gateway: its process, and how to speak to it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::{Connection, Response, Trust};
use crate::waiting::until;
use crate::world::{Key, binary};

/// A running gateway.
pub struct Gateway {
    pub tls: u16,
    pub plain: u16,
    pub admin: u16,
    pub folder: PathBuf,
    pub trust: Trust,
    child: Option<Child>,
}

impl Gateway {
    /// A gateway whose folder has its settings; not started yet.
    pub(crate) fn in_folder(folder: PathBuf, (tls, plain, admin): (u16, u16, u16), trust: Trust) -> Self {
        Gateway { tls, plain, admin, folder, trust, child: None }
    }

    /// Starts the process.
    pub fn run(&mut self, arguments: &[&str]) {
        let log = |name: &str| {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.join(name));
            Stdio::from(file.unwrap())
        };
        let child = Command::new(binary())
            .arg("--config")
            .arg(self.folder.join("tollgate.yaml"))
            .arg("serve")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log("stdout"))
            .stderr(log("stderr"))
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Everything that the gateway wrote to its output.
    pub fn output(&self) -> String {
        ["stdout", "stderr"].map(|name| std::fs::read_to_string(self.folder.join(name)).unwrap_or_default()).concat()
    }

    /// Waits until the gateway is sure that no other one shares its limits.
    pub fn wait_alone(&self) {
        until("the gateway is alone", || self.metric("tollgate_limit_alone") > 0.0);
    }

    pub fn wait_ready(&mut self) {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("the gateway ended ({status}): {}", self.output());
            }
            if std::net::TcpStream::connect(("127.0.0.1", self.tls)).is_ok() && self.readiness().0 == 200 {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "the gateway is not ready: {}", self.output());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Status and body of `/readyz`; 0 when nobody answers.
    pub fn readiness(&self) -> (u16, serde_json::Value) {
        if std::net::TcpStream::connect(("127.0.0.1", self.admin)).is_err() {
            return (0, serde_json::Value::Null);
        }
        let answer = self.admin_get("/readyz");
        (answer.status, answer.json())
    }

    pub fn admin_get(&self, path: &str) -> Response {
        Connection::plain(self.admin).ask("GET", path, &[("host", "localhost")], b"")
    }

    /// The value of a metric line that starts so; 0 when there is none.
    pub fn metric(&self, start: &str) -> f64 {
        let text = String::from_utf8(self.admin_get("/metrics").body).unwrap();
        let line = text.lines().find(|l| l.starts_with(start));
        line.map_or(0.0, |l| l.rsplit(' ').next().unwrap().parse().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// What the system says of its memory, in KiB: `VmRSS` is what it has, `VmHWM` the most that it had.
    pub fn memory_kib(&self, what: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.pid().to_string()]).status().unwrap().success());
    }

    /// Sends SIGTERM and waits for the end; returns how long that took.
    pub fn stop(&mut self) -> Duration {
        let started = Instant::now();
        self.signal("-TERM");
        assert!(self.child.take().unwrap().wait().unwrap().success());
        started.elapsed()
    }

    /// Gives the process away without ending it, to stand for the one that is replaced.
    pub fn take_child(&mut self) -> Child {
        self.child.take().unwrap()
    }

    pub fn connect(&self, host: &str) -> Connection {
        let name = host.split(':').next().unwrap();
        Connection::tls(self.tls, &self.trust, name)
    }

    /// One request on a connection of its own.
    pub fn ask(&self, method: &str, url: &str, key: Option<&str>, fields: &[(&str, &str)]) -> Response {
        self.ask_with_body(method, url, key, fields, b"")
    }

    pub fn ask_with_body(
        &self,
        method: &str,
        url: &str,
        key: Option<&str>,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let (host, path) = split(url);
        let bearer = key.map(|key| format!("Bearer {key}"));
        let mut all = vec![("host", host)];
        all.extend(bearer.as_deref().map(|value| ("authorization", value)));
        all.extend(fields);
        self.connect(host).ask(method, path, &all, body)
    }

    pub fn get(&self, url: &str, key: &Key) -> Response {
        self.ask("GET", url, Some(&key.secret), &[])
    }
}

/// Splits `https://host/path`.
pub fn split(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("https://").unwrap();
    rest.split_at(rest.find('/').unwrap())
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}", self.folder.display(), self.output());
        }
    }
}
