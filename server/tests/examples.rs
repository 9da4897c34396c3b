//! The client's examples as programs of their own, against a real server that is killed under them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Once;

use automerge::ReadDoc as _;
use common::{Member, Server, command};

/// An example's program, built from the sources of now; by the task runner, which says so, or here.
fn example(name: &str) -> PathBuf {
    static BUILD: Once = Once::new();
    let server = Path::new(env!("CARGO_BIN_EXE_etherply"));
    let profile = server.parent().unwrap();
    BUILD.call_once(|| {
        if std::env::var_os("ETHERPLY_BUILT").is_some() {
            return;
        }
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--package", "etherply-client", "--examples", "--target-dir"]);
        cargo.arg(profile.parent().unwrap()).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().unwrap().success(), "the examples do not build");
    });
    profile.join("examples").join(name)
}

/// A running example. It is killed when it goes out of scope.
struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
    said: Vec<String>,
}

impl Running {
    fn start(name: &str, server: SocketAddr, arguments: &[&str]) -> Self {
        let mut command = Command::new(example(name));
        command.args(["--url", &format!("tcp://{server}")]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output, said: Vec::new() }
    }

    /// Reads on until it says something that begins so.
    fn until(&mut self, begins: &str) -> String {
        loop {
            let line = self.line().unwrap_or_else(|| panic!("it ended before `{begins}`: {:#?}", self.said));
            if line.starts_with(begins) {
                return line;
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let bytes = self.output.read_line(&mut line).unwrap();
        // The last line may be cut off where the program was killed.
        let line = line.strip_suffix('\n')?.to_owned();
        self.said.push(line.clone());
        (bytes > 0).then_some(line)
    }

    /// Everything that it said behind such words.
    fn all(&self, begins: &str) -> BTreeSet<String> {
        self.said.iter().filter_map(|line| line.strip_prefix(begins)).map(str::to_owned).collect()
    }

    /// As a power cut would end it; what it had said by then is read.
    fn kill(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        while self.line().is_some() {}
        self
    }

    fn wait(mut self) -> Self {
        while self.line().is_some() {}
        assert!(self.child.wait().unwrap().success(), "{:#?}", self.said);
        self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server on the port of the one before.
fn again(data: &Path, listen: SocketAddr) -> Server {
    Server::spawn(command(data).args(["--listen", &listen.to_string()]))
}

/// The keys that a client finds which holds nothing.
fn fresh(server: &Server, name: &str, keys: usize) -> BTreeSet<String> {
    let mut fresh = Member::connect(server, false, 9);
    let stream = fresh.open(name);
    loop {
        let document = fresh.documents.get_mut(&stream).unwrap();
        document.apply().unwrap();
        let found: BTreeSet<String> = document.doc().keys(automerge::ROOT).collect();
        if found.len() >= keys {
            return found;
        }
        fresh.receive();
    }
}

#[test]
fn a_sensor_loses_no_reading_over_crashes_of_the_server_and_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (data, file) = (folder.path().join("data"), folder.path().join("outbox"));
    let file = file.to_str().unwrap();
    let arguments =
        |seconds| ["--seconds", seconds, "--every-ms", "20", "--file", file, "--document", "cellar"];
    let server = Server::start(&data);
    let listen = server.listen;

    let mut sensor = Running::start("sensor", listen, &arguments("3600"));
    (0..5).for_each(|_| drop(sensor.until("acked ")));
    server.kill();
    sensor.until("no connection");
    (0..5).for_each(|_| drop(sensor.until("measured ")));
    let server = again(&data, listen);
    sensor.until("connected");
    (0..5).for_each(|_| drop(sensor.until("acked ")));
    // Both at once: what it measured since is in its file alone.
    server.kill();
    (0..5).for_each(|_| drop(sensor.until("measured ")));
    let first = sensor.kill();

    let server = again(&data, listen);
    let mut sensor = Running::start("sensor", listen, &arguments("1"));
    let restored = sensor.until("restored ");
    assert_ne!(restored, "restored 0 readings that were not acked");
    let second = sensor.wait();
    assert!(second.said.last().unwrap().starts_with("done: "), "{:#?}", second.said);

    let acked = &first.all("acked ") | &second.all("acked ");
    let measured = &first.all("measured ") | &second.all("measured ");
    assert!(second.all("measured ").is_subset(&acked));
    let found = fresh(&server, "cellar", measured.len());
    let missing: Vec<_> = acked.union(&measured).filter(|key| !found.contains(*key)).collect();
    assert_eq!(missing, Vec::<&String>::new());
}

#[test]
fn players_see_each_other_and_build_one_world_over_a_crash_of_the_server() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let listen = server.listen;
    let player = |name: &'static str| {
        Running::start("game_loop", listen, &["--seconds", "6", "--player", name, "--world", "world"])
    };
    let mut ada = player("ada");
    let ben = player("ben");
    ada.until("connected");
    while !ada.line().unwrap().contains("ben at ") {}
    server.kill();
    ada.until("no connection");
    let server = again(data.path(), listen);
    ada.until("connected");
    let (ada, ben) = (ada.wait(), ben.wait());
    for player in [&ada, &ben] {
        let last = player.said.last().unwrap();
        assert!(last.starts_with("done: ") && last.ends_with("all stored"), "{:#?}", player.said);
    }
    let found = fresh(&server, "world", 12);
    let expected = |name: &str| (1..=6).map(|number| format!("{name}/{number}")).collect::<BTreeSet<_>>();
    assert_eq!(found, &expected("ada") | &expected("ben"));
}
