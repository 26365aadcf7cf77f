//! Gateways, their store, their upstreams, and the commands that manage them.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::client::{Connection, Response, Trust};
use crate::redis::Redis;
use crate::upstream::Upstream;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    Sqlite,
    Redis,
}

/// A key as it was created.
#[derive(Clone, Debug)]
pub struct Key {
    pub id: String,
    pub secret: String,
}

/// A port that nothing listens on and that no other test takes while this process lives. Below the
/// range that the system takes ports of outgoing connections from (one of those would come between),
/// and so that 10,000 more, where a cluster node has its bus, is nobody else's.
pub fn free_port() -> u16 {
    static TAKEN: Mutex<Vec<File>> = Mutex::new(Vec::new());
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let folder = std::env::temp_dir().join("tollgate-test-ports");
    std::fs::create_dir_all(&folder).unwrap();
    for _ in 0..10_000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(10_000 + (std::process::id() * 37 + step) % 10_000).unwrap();
        let claim = File::create(folder.join(port.to_string())).unwrap();
        if claim.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            TAKEN.lock().unwrap().push(claim);
            return port;
        }
    }
    panic!("no port is free");
}

/// Waits for a condition; a test that waits longer than 20 s has failed.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The folder with client libraries of other ecosystems and what drives a browser.
pub fn clients() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(3).unwrap().join("clients");
    assert!(path.join("installed").exists(), "{} is missing: `tests/clients/install` first", path.display());
    path
}

/// The binary under test, built beside the test itself.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("tollgate");
    assert!(path.exists(), "{} is missing: `cargo build -p gateway` first, or use `tests/run`", path.display());
    path
}

pub const ICONFLOW: &str = include_str!("../../deploy/examples/iconflow.yaml");
pub const ICODRIP: &str = include_str!("../../deploy/examples/icodrip.yaml");

/// A running gateway.
pub struct Gateway {
    pub tls: u16,
    pub plain: u16,
    pub admin: u16,
    pub folder: PathBuf,
    pub trust: Trust,
    child: Option<Child>,
}

/// A folder with settings, policies, upstreams and a store, and gateways that run on it.
pub struct World {
    pub folder: tempfile::TempDir,
    pub redis: Option<Redis>,
    pub live: Upstream,
    pub test: Upstream,
    pub icodrip: Upstream,
    pub icodrip_test: Upstream,
    pub extra_settings: String,
    store: String,
    gateways: Vec<Gateway>,
}

impl World {
    /// Both shipped policies in front of recording upstreams, one gateway.
    pub fn start(kind: StoreKind) -> Self {
        Self::start_with(kind, "", |policy| policy)
    }

    pub fn start_with(kind: StoreKind, extra_settings: &str, edit: impl Fn(String) -> String) -> Self {
        let mut world = Self::prepare(kind, extra_settings, edit);
        world.add_gateway();
        world
    }

    /// One gateway on a store that is the test's own, with limits that nothing reaches.
    pub fn start_on(store: &str) -> Self {
        let generous = |policy: String| policy.replace("1000/min", "1000000/min").replace("200/min", "200000/min");
        let mut world = Self::prepare_on(store.to_owned(), None, "", generous);
        world.add_gateway();
        world
    }

    /// The same as [`World::start_with`], without a gateway.
    pub fn prepare(kind: StoreKind, extra_settings: &str, edit: impl Fn(String) -> String) -> Self {
        let redis = (kind == StoreKind::Redis).then(Redis::start);
        let store = redis.as_ref().map_or_else(|| "sqlite://../tollgate.db".to_owned(), Redis::url);
        Self::prepare_on(store, redis, extra_settings, edit)
    }

    fn prepare_on(store: String, redis: Option<Redis>, extra_settings: &str, edit: impl Fn(String) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = World {
            live: Upstream::start("iconflow-live"),
            test: Upstream::start("iconflow-sandbox"),
            icodrip: Upstream::start("icodrip-live"),
            icodrip_test: Upstream::start("icodrip-sandbox"),
            extra_settings: extra_settings.to_owned(),
            store,
            redis,
            folder,
            gateways: Vec::new(),
        };
        let init = Command::new(binary())
            .args(["init", "--host", "api.iconflow.dev", "--host", "api.icodrip.com", "--host", "auth.iconflow.dev"])
            .arg(world.folder.path())
            .output()
            .unwrap();
        assert!(init.status.success(), "{init:?}");
        world.write_policy("iconflow.yaml", &edit(ICONFLOW.to_owned()));
        world.write_policy("icodrip.yaml", &edit(ICODRIP.to_owned()));
        world
    }

    /// Writes a policy file with the sample ports replaced by those of this world's upstreams.
    pub fn write_policy(&self, name: &str, text: &str) {
        let ports = [(9101, &self.live), (9102, &self.test), (9201, &self.icodrip), (9202, &self.icodrip_test)];
        let text = ports.iter().fold(text.to_owned(), |text, (port, up)| {
            text.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{}", up.port))
        });
        let path = self.folder.path().join(name);
        let part = path.with_extension("part");
        std::fs::write(&part, text).unwrap();
        std::fs::rename(part, path).unwrap();
    }

    pub fn policy_text(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    /// Adds and starts a gateway; it shares store, policies and certificate with the others.
    pub fn add_gateway(&mut self) -> &Gateway {
        self.add_gateways(1);
        self.gateways.last().unwrap()
    }

    /// Adds and starts several gateways at once.
    pub fn add_gateways(&mut self, more: usize) {
        let from = self.gateways.len();
        for _ in 0..more {
            let gateway = self.prepare_gateway();
            self.gateways.push(gateway);
        }
        for gateway in self.gateways.iter_mut().skip(from) {
            gateway.wait_ready();
        }
    }

    fn prepare_gateway(&self) -> Gateway {
        let number = self.gateways.len();
        let folder = self.folder.path().join(format!("gateway-{number}"));
        std::fs::create_dir_all(&folder).unwrap();
        let (tls, plain, admin) = (free_port(), free_port(), free_port());
        let settings = format!(
            "listen:\n  - {{ address: \"127.0.0.1:{tls}\", kind: tls }}\n  - {{ address: \"127.0.0.1:{plain}\", kind: plain }}\n\
             certificates: [{{ certificate: ../cert.pem, key: ../key.pem }}]\n\
             policy: [../iconflow.yaml, ../icodrip.yaml]\nstore: \"{}\"\npepper_file: ../pepper\n\
             admin: \"127.0.0.1:{admin}\"\nstate: .\nthreads: 2\nstore_timeout: 1s\n{}\n",
            self.store, self.extra_settings
        );
        std::fs::write(folder.join("tollgate.yaml"), settings).unwrap();
        let trust = Trust::new(&self.folder.path().join("ca.pem"));
        let mut gateway = Gateway { tls, plain, admin, folder, trust, child: None };
        gateway.run(&[]);
        gateway
    }

    pub fn gateway(&self) -> &Gateway {
        &self.gateways[0]
    }

    pub fn gateways(&self) -> &[Gateway] {
        &self.gateways
    }

    pub fn gateway_number(&self, number: usize) -> &Gateway {
        &self.gateways[number]
    }

    pub fn gateway_number_mut(&mut self, number: usize) -> &mut Gateway {
        &mut self.gateways[number]
    }

    pub fn gateway_mut(&mut self) -> &mut Gateway {
        &mut self.gateways[0]
    }

    /// Gives the first gateway one more listener, for what ends TLS in front of it, and starts it
    /// again; returns the port.
    pub fn add_trusted_listener(&mut self) -> u16 {
        let port = free_port();
        let listen =
            format!("listen:\n  - {{ address: \"127.0.0.1:{port}\", kind: trusted, terminated_by: the test }}\n");
        self.change_settings("listen:\n", &listen);
        port
    }

    /// Replaces something in the settings of the first gateway, and starts it again.
    pub fn change_settings(&mut self, from: &str, to: &str) {
        let settings = self.gateway().folder.join("tollgate.yaml");
        let text = std::fs::read_to_string(&settings).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        std::fs::write(&settings, text.replace(from, to)).unwrap();
        self.gateway_mut().stop();
        self.gateway_mut().run(&[]);
        self.gateway_mut().wait_ready();
    }

    pub fn redis(&mut self) -> &mut Redis {
        self.redis.as_mut().unwrap()
    }

    /// Runs a command of the binary with this world's settings.
    pub fn tollgate(&self, arguments: &[&str]) -> Output {
        self.tollgate_with(arguments, "")
    }

    pub fn tollgate_with(&self, arguments: &[&str], input: &str) -> Output {
        use std::io::Write as _;
        let config = self.folder.path().join("gateway-0/tollgate.yaml");
        let mut child = Command::new(binary())
            .arg("--config")
            .arg(config)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Runs a command that must succeed, with `--json`.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let mut with_json = vec!["--json"];
        with_json.extend(arguments);
        let out = self.tollgate(&with_json);
        assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }

    /// An organization with every permission of both APIs.
    pub fn organization(&self, id: &str) {
        self.json(&["orgs", "create", id, "--permissions", "packs:read,packs:write,downloads:read,team:manage,billing:read,affiliates:read,affiliates:write,events:track"]);
    }

    /// Imports a read key of IconFlow made elsewhere; may read packs.
    pub fn import(&self, secret: &str) {
        let rights =
            ["--org", "acme", "--name", "imported", "--api", "iconflow", "--class", "read", "--scopes", "packs:read"];
        let out = self.tollgate_with(&[&["keys", "import", "--stdin"], &rights[..]].concat(), secret);
        assert!(out.status.success(), "{out:?}");
    }

    /// Creates a key; `rest` holds further arguments.
    pub fn key(&self, api: &str, class: &str, rest: &[&str]) -> Key {
        let mut arguments = vec!["keys", "create", "--org", "acme", "--name", "test", "--api", api, "--class", class];
        arguments.extend(rest);
        let made = self.json(&arguments);
        Key { id: made["id"].as_str().unwrap().into(), secret: made["key"].as_str().unwrap().into() }
    }
}

impl Gateway {
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
