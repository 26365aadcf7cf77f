//! Redis in the arrangements that have more than one process.

use std::process::{Child, Command, Stdio};

use crate::redis::Redis;
use crate::waiting::{free_port, until};

/// A Redis Cluster.
pub struct Cluster {
    pub nodes: Vec<Redis>,
}

impl Cluster {
    /// So many masters, and so many replicas of each.
    pub fn start(masters: usize, replicas: usize) -> Self {
        let options = [
            ["--cluster-enabled", "yes"],
            ["--cluster-node-timeout", "1000"],
            // A replica that has not synchronized yet cannot take over.
            ["--repl-diskless-sync-delay", "0"],
        ];
        let nodes: Vec<Redis> = (0..masters * (1 + replicas)).map(|_| Redis::start_with(&options.concat())).collect();
        let addresses: Vec<String> = nodes.iter().map(|n| format!("127.0.0.1:{}", n.port)).collect();
        let out = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(&addresses)
            .args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"])
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
        let cluster = Cluster { nodes };
        cluster.wait_whole();
        until("replicas follow", || {
            let follows = |n: &&Redis| n.cli(&["info", "replication"]).contains("master_link_status:up");
            cluster.nodes.iter().filter(follows).count() == masters * replicas
        });
        cluster
    }

    pub fn wait_whole(&self) {
        until("the cluster is whole", || {
            self.nodes
                .iter()
                .filter(|n| n.is_running())
                .all(|n| n.cli(&["cluster", "info"]).contains("cluster_state:ok"))
        });
    }

    /// The URL of the store.
    pub fn url(&self) -> String {
        let addresses: Vec<String> = self.nodes.iter().map(|n| format!("127.0.0.1:{}", n.port)).collect();
        format!("redis+cluster://{}", addresses.join(","))
    }

    /// Sends a command to the node that holds a key.
    pub fn cli(&self, command: &[&str]) -> String {
        let out = Command::new("redis-cli").args(["-c", "-p", &self.nodes[0].port.to_string()]).args(command).output();
        String::from_utf8_lossy(&out.unwrap().stdout).into_owned()
    }
}

/// A sentinel that watches one master.
pub struct Sentinel {
    pub port: u16,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Sentinel {
    pub fn start(master: &Redis) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let config = folder.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 3000\n",
            master.port
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new("redis-server").arg(&config).arg("--sentinel").stdout(Stdio::null()).spawn().unwrap();
        let sentinel = Sentinel { port, child, _folder: folder };
        until("the sentinel answers", || sentinel.master().contains(&master.port.to_string()));
        sentinel
    }

    /// Where it says that the master is.
    pub fn master(&self) -> String {
        self.cli(&["sentinel", "get-master-addr-by-name", "mymaster"])
    }

    /// Asks it something.
    pub fn cli(&self, command: &[&str]) -> String {
        let out = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(command).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    pub fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{}/mymaster", self.port)
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
