//! A real redis-server in a folder of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::waiting::{free_port, until};

pub struct Redis {
    pub port: u16,
    folder: tempfile::TempDir,
    options: Vec<String>,
    child: Option<Child>,
}

impl Redis {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(options: &[&str]) -> Self {
        let mut redis = Redis {
            port: free_port(),
            folder: tempfile::tempdir().unwrap(),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
            child: None,
        };
        redis.run();
        redis
    }

    /// Starts the server again on its port, with whatever it has on disk.
    pub fn run(&mut self) {
        self.spawn();
        until("redis answers", || self.cli(&["ping"]).trim() == "PONG");
    }

    /// The same, without waiting until it can serve.
    pub fn spawn(&mut self) {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir"])
            .arg(self.folder.path())
            .args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""])
            .args(&self.options)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is needed: `tests/run` installs it");
        self.child = Some(child);
    }

    /// Stops it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Forgets what is on disk; for a restart without data.
    pub fn lose_data(&self) {
        for entry in std::fs::read_dir(self.folder.path()).unwrap().flatten() {
            let path: PathBuf = entry.path();
            let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub fn cli(&self, command: &[&str]) -> String {
        let out = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(command).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
