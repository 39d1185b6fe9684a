//! The program `impair` between the lab's cables and its switch.

use super::{Cable, Command, Reply};
use crate::lab::{Lab, bin_dir};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

/// A cable's port of the switch, as the lab names it, and what the relay calls the cable.
const PORTS: [(&str, &str, &str); 4] = [
    ("wire", "wc", "brwire"),
    ("link1", "l1", "brlink"),
    ("link2", "l2", "brlink"),
    ("link3", "l3", "brlink"),
];

/// A relay that stands in the client's wire and in the nodes' links until it is dropped.
pub struct Rig<'a> {
    lab: &'a Lab,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl<'a> Rig<'a> {
    /// Puts the relay in. Until it is [`Rig::set`] it changes nothing.
    ///
    /// # Panics
    /// A privilege or a tool is missing.
    #[must_use]
    pub fn new(lab: &'a Lab) -> Self {
        for (_, port, bridge) in PORTS {
            let (near, far) = (format!("{port}x"), format!("{port}y"));
            let commands = format!(
                "set -e; ip link add name {near} mtu 1500 type veth peer name {far} mtu 1500; \
                 for i in {near} {far}; do \
                 ethtool -K $i tx off rx off sg off tso off gso off gro off rxvlan off txvlan off >/dev/null; \
                 ip link set dev $i addrgenmode none; done; \
                 ip link set dev {port} nomaster; ip link set dev {far} master {bridge}; \
                 ip link set dev {near} up; ip link set dev {far} up"
            );
            lab.exec("sw", &["sh", "-c", &commands]);
        }
        let program = bin_dir().join("impair");
        // Ahead of everything that it delays: its own lateness would be the test's.
        let mut command = std::process::Command::new("ip");
        command.args(["netns", "exec", &lab.namespace("sw"), "nice", "-n", "-15"]);
        command.arg(&program);
        command.args(PORTS.map(|(name, port, _)| format!("{name}={port}:{port}x")));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut rig = Self {
            lab,
            child,
            input,
            output,
        };
        rig.set(0, &[]);
        rig
    }

    fn ask(&mut self, command: &Command) -> Reply {
        let mut line = serde_json::to_string(command).expect("a command is JSON");
        line.push('\n');
        let input = self.input.as_mut().expect("open until dropped");
        let sent = input
            .write_all(line.as_bytes())
            .and_then(|()| input.flush());
        let mut text = String::new();
        let got = sent.and_then(|()| self.output.read_line(&mut text));
        assert!(
            got.as_ref().is_ok_and(|n| *n > 0),
            "impair has ended: {got:?}, {:?}",
            self.child.try_wait()
        );
        let reply: Reply =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("impair said {text:?}: {e}"));
        assert_eq!(reply.error, "", "{line}");
        reply
    }

    /// Impairs these cables from now on, and only these: `wire`, `link1` to `link3`.
    ///
    /// # Panics
    /// The relay does not know one, or has ended.
    pub fn set(&mut self, seed: u64, cables: &[(&str, Cable)]) {
        let cables: BTreeMap<String, Cable> = cables
            .iter()
            .map(|(name, cable)| ((*name).to_owned(), cable.clone()))
            .collect();
        self.ask(&Command::Set { seed, cables });
    }

    /// The counts of a cable since [`Rig::set`].
    ///
    /// # Panics
    /// The relay has ended, or could not carry what came: what was measured is void then.
    pub fn report(&mut self, cable: &str) -> Reply {
        let reply = self.ask(&Command::Report {
            cable: cable.into(),
        });
        assert_eq!(reply.overflow, 0, "frames that the relay could not carry");
        reply
    }
}

impl Drop for Rig<'_> {
    fn drop(&mut self) {
        // The end of its input ends it.
        self.input = None;
        if let Err(error) = self.child.wait() {
            eprintln!("impair: {error}");
        }
        for (_, port, bridge) in PORTS {
            let commands = format!(
                "ip link del dev {port}x; ip link set dev {port} master {bridge}; \
                 ip link set dev {port} type bridge_slave flood on mcast_flood on bcast_flood on learning on"
            );
            let done = self.lab.try_exec("sw", &["sh", "-c", &commands]);
            if !done.status.success() {
                eprintln!("{}", String::from_utf8_lossy(&done.stderr));
            }
        }
    }
}
