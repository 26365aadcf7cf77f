//! Gateways, their store, their upstreams, and the commands that manage them.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::client::Trust;
use crate::gateway::Gateway;
use crate::policy_text::{Policies, PolicyText};
use crate::redis::Redis;
use crate::upstream::Upstream;
use crate::waiting::free_port;

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

impl Key {
    /// As `Authorization` wants it.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.secret)
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

    pub fn start_with(kind: StoreKind, extra_settings: &str, edit: impl Fn(Policies) -> Policies) -> Self {
        let mut world = Self::prepare(kind, extra_settings, edit);
        world.add_gateway();
        world
    }

    /// The same, with an organization and a key of it that may do everything.
    pub fn with_admin(kind: StoreKind, extra_settings: &str, edit: impl Fn(Policies) -> Policies) -> (Self, Key) {
        let world = Self::start_with(kind, extra_settings, edit);
        world.organization("acme");
        let key = world.key("iconflow", "admin", &[]);
        (world, key)
    }

    /// One gateway on a store that is the test's own, with limits that nothing reaches.
    pub fn start_on(store: &str) -> Self {
        let generous = |policy: Policies| policy.replace("1000/min", "1000000/min").replace("200/min", "200000/min");
        let mut world = Self::prepare_on(store.to_owned(), None, "", generous);
        world.add_gateway();
        world
    }

    /// The same as [`World::start_with`], without a gateway.
    pub fn prepare(kind: StoreKind, extra_settings: &str, edit: impl Fn(Policies) -> Policies) -> Self {
        let redis = (kind == StoreKind::Redis).then(Redis::start);
        let store = redis.as_ref().map_or_else(|| "sqlite://../tollgate.db".to_owned(), Redis::url);
        Self::prepare_on(store, redis, extra_settings, edit)
    }

    fn prepare_on(
        store: String,
        redis: Option<Redis>,
        extra_settings: &str,
        edit: impl Fn(Policies) -> Policies,
    ) -> Self {
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
        let policies = edit(Policies(vec![ICONFLOW.to_owned(), ICODRIP.to_owned()]));
        for (name, text) in ["iconflow.yaml", "icodrip.yaml"].into_iter().zip(&policies.0) {
            world.write_policy(name, text);
        }
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

    pub fn policy_text(&self, name: &str) -> PolicyText {
        PolicyText(std::fs::read_to_string(self.folder.path().join(name)).unwrap())
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
        let mut gateway = Gateway::in_folder(folder, (tls, plain, admin), trust);
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
        // A command that fails before it reads says why itself.
        match child.stdin.take().unwrap().write_all(input.as_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => panic!("{error}"),
            Ok(()) | Err(_) => {}
        }
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
