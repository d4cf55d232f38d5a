//! All ways in which a worker gets its ports, from a client's view: the worker answers on the port
//! in the event.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;
use ostler_tests::scene::{ask, body, free_port, get, pool, pool_of, python};
use ostler_tests::{SOON, Up, pid_of, program, send};
use serde_json::Value;

const HTTP: &str = "ready = { http = \"/\" }";

fn port_of(event: &Value) -> u16 {
    event["port"]
        .as_u64()
        .and_then(|port| u16::try_from(port).ok())
        .unwrap_or_else(|| panic!("no port in {event}"))
}

/// Asserts that the worker of the event answers on the port of the event.
fn assert_answers(ready: &Value) {
    let answer = get(("127.0.0.1", port_of(ready))).unwrap();
    assert_eq!(answer, pid_of(ready).to_string(), "{ready}");
}

/// Kills a worker and returns the ready event of its replacement.
fn replaced(up: &mut Up, ready: &Value) -> Value {
    send(pid_of(ready), Signal::SIGKILL);
    up.wait_for_event("worker.ready")
}

/// Starts one worker, which becomes ready and answers, and checks that its replacement has the same
/// port.
fn serves_and_keeps_its_port(modes: &str, keys: &str) -> u16 {
    let mut up = Up::start(|tag| pool(modes, tag, keys));
    let first = up.wait_for_event("worker.ready");
    assert_answers(&first);
    let second = replaced(&mut up, &first);
    assert_answers(&second);
    assert_eq!(second["port"], first["port"], "a restart gets the port it had");
    up.stop_cleanly();
    port_of(&first)
}

/// The first of `length` consecutive ports that are free at the moment.
fn free_row(length: u16) -> u16 {
    for _ in 0..100 {
        let first = free_port();
        let Some(last) = first.checked_add(length - 1) else {
            continue;
        };
        if (first..=last).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
    panic!("no {length} consecutive free ports");
}

#[test]
fn without_port_there_is_none_in_event_command_or_environment() {
    let script = "[ \"$0\" = '{port}' ] && [ -z \"$PORT\" ] && exec sleep 3600; exit 9";
    let command = |tag: &str| format!("[\"sh\", \"-c\", {script:?}, \"{{port}}\", {tag:?}]");
    let mut up = Up::start_with(
        |tag| pool_of(&command(tag), "ready = { after = \"200ms\" }"),
        |command| _ = command.env_remove("PORT"),
    );
    let ready = up.wait_for_event("worker.ready");
    assert!(ready.get("port").is_none() && ready.get("ports").is_none(), "{ready}");
    up.stop_cleanly();
}

#[test]
fn any_is_chosen_by_the_host_and_kept() {
    serves_and_keeps_its_port("http", &format!("port = \"any\"\n{HTTP}"));
}

#[test]
fn any_gives_each_worker_a_port_of_its_own() {
    let mut up = Up::start(|tag| pool("http", tag, &format!("workers = 5\nport = \"any\"\n{HTTP}")));
    up.wait_for_event("pool.ready");
    let mut ports: Vec<u16> = up.named("worker.ready").map(port_of).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 5);
    up.stop_cleanly();
}

#[test]
fn fixed_port_is_used() {
    let port = free_port();
    let got = serves_and_keeps_its_port("http", &format!("port = {port}\n{HTTP}"));
    assert_eq!(got, port);
}

#[test]
fn range_skips_ports_in_use() {
    let first = free_row(4);
    let _taken = [first, first + 2].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
    let keys = format!("workers = 2\nport = \"{first}-{}\"\n{HTTP}", first + 3);
    let mut up = Up::start(|tag| pool("http", tag, &keys));
    up.wait_for_event("pool.ready");
    let mut ports: Vec<u16> = up.named("worker.ready").map(port_of).collect();
    ports.sort_unstable();
    assert_eq!(ports, [first + 1, first + 3]);
    let ready = up.named("worker.ready").next().unwrap().clone();
    let second = replaced(&mut up, &ready);
    assert_eq!(second["port"], ready["port"]);
    up.stop_cleanly();
}

#[test]
fn exhausted_range_names_the_holders() {
    let first = free_row(2);
    let _taken = [first, first + 1].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
    let keys = format!("intensity = 0\nport = \"{first}-{}\"", first + 1);
    let mut up = Up::start(|tag| pool("http", tag, &keys));
    let (status, stderr) = up.end(SOON);
    assert_eq!(status.code(), Some(1), "{stderr}");
    let failure = up.named("worker.failed").next().unwrap();
    assert_eq!(failure["reason"], "port_in_use");
    let holder = failure["holder"].as_str().unwrap();
    for named in [
        std::process::id().to_string(),
        first.to_string(),
        (first + 1).to_string(),
    ] {
        assert!(holder.contains(&named), "{named} missing in {holder}");
    }
    up.assert_nothing_left();
}

/// Two pools with the same range of one port: the failure of the second worker names the first.
#[test]
fn port_held_by_another_worker_names_that_worker() {
    let port = free_row(1);
    let keys = format!("intensity = 0\nport = \"{port}-{port}\"\n{HTTP}");
    let mut up = Up::start(|tag| {
        let second = pool("http", tag, &keys).replace("[pool.p]", "[pool.q]");
        format!("{}{second}", pool("http", tag, &keys))
    });
    let failure = up.wait_for_event("worker.failed");
    assert_eq!(failure["reason"], "port_in_use");
    let other = if failure["worker"] == "p/0" { "q/0" } else { "p/0" };
    assert!(failure["holder"].as_str().unwrap().contains(other), "{failure}");
    up.wait_for_event("pool.gave_up");
    up.signal(Signal::SIGTERM);
    let (status, stderr) = up.end(SOON);
    assert_eq!(status.code(), Some(1), "one pool gave up: {stderr}");
    up.assert_nothing_left();
}

#[test]
fn reported_by_notify() {
    let keys = "port = \"reported\"\nready = { notify = true }";
    let mut up = Up::start(|tag| pool("notify-port", tag, keys));
    let first = up.wait_for_event("worker.ready");
    assert_answers(&first);
    assert!(up.named("worker.spawned").next().unwrap().get("port").is_none());
    let second = replaced(&mut up, &first);
    assert_answers(&second);
    up.stop_cleanly();
}

#[test]
fn reported_by_the_ready_file() {
    let keys = "port = \"reported\"\nready = { file = true }";
    let mut up = Up::start(|tag| pool("file-port", tag, keys));
    let ready = up.wait_for_event("worker.ready");
    assert_answers(&ready);
    up.stop_cleanly();
}

/// A program that uses the socket passed to it, as in systemd's socket activation, and answers with
/// its pid.
const ACTIVATED: &str = "
import os, socket, sys
assert os.environ[\"LISTEN_PID\"] == str(os.getpid())
assert os.environ[\"LISTEN_FDS\"] == \"1\"
server = socket.socket(fileno=3)
assert server.getsockname()[1] == int(sys.argv[1]) == int(os.environ[\"PORT\"])
while True:
    connection, _ = server.accept()
    connection.recv(1024)
    body = str(os.getpid()).encode()
    connection.sendall(b\"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n\" + body)
    connection.close()
";

#[test]
fn listen_stays_bound_between_incarnations_and_loses_no_connection() {
    let keys = format!("port = \"listen\"\n{HTTP}\nbackoff = {{ first = \"4s\", max = \"4s\", jitter = 0.0 }}");
    let mut up = Up::start(|tag| pool_of(&python(ACTIVATED, tag), &keys));
    let first = up.wait_for_event("worker.ready");
    assert_answers(&first);
    let port = port_of(&first);
    send(pid_of(&first), Signal::SIGKILL);
    up.wait_for_event("worker.released");
    let mut early = TcpStream::connect(("127.0.0.1", port)).expect("socket listens before a worker is started");
    ask(&mut early).unwrap();
    assert_eq!(up.count("worker.reserved"), 1, "no worker yet: {}", up.story());
    let second = up.wait_for_event("worker.ready");
    assert_eq!(body(early).unwrap(), pid_of(&second).to_string());
    assert_eq!(second["port"], first["port"]);
    up.stop_cleanly();
    let refused = TcpStream::connect(("127.0.0.1", port)).unwrap_err();
    assert_eq!(
        refused.kind(),
        ErrorKind::ConnectionRefused,
        "the socket is closed with the run"
    );
}

/// A server without SO_REUSEADDR that closes first, as it is asked to, and ends at a client that
/// does not read all of its answer.
const CLOSES_FIRST: &str = "
import os, socketserver, sys, time
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.rfile.readline()
        self.wfile.write(b\"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n\")
        for part in range(2):
            time.sleep(0.01)
            self.wfile.write(b\"ok\")
class Server(socketserver.TCPServer):
    def handle_error(self, request, client):
        os._exit(9)
Server((\"127.0.0.1\", int(sys.argv[1])), Handler).serve_forever()
";

/// In TIME_WAIT on the worker's side, a connection of ours would keep the port for a minute.
#[test]
fn probes_leave_nothing_on_the_ports_of_workers() {
    let keys = format!(
        "port = {}\n{HTTP}\nhealth = {{ http = \"/\", every = \"50ms\" }}",
        free_port()
    );
    let mut up = Up::start(|tag| pool_of(&python(CLOSES_FIRST, tag), &keys));
    let first = up.wait_for_event("worker.ready");
    let failed = up.poll(Duration::from_millis(500), |event| event["event"] == "worker.failed");
    assert_eq!(failed, None);
    let second = replaced(&mut up, &first);
    assert_eq!(second["port"], first["port"]);
    up.stop_cleanly();
}

/// The first incarnation spoils the socket for all: it makes it non-blocking, and shuts it down.
const SPOILING: &str = "
import fcntl, os, socket, sys
server = socket.socket(fileno=3)
if sys.argv[3] == \"1\":
    server.setblocking(False)
    if sys.argv[4] == \"shut\":
        server.shutdown(socket.SHUT_RDWR)
    sys.exit(1)
assert not fcntl.fcntl(3, fcntl.F_GETFL) & os.O_NONBLOCK
while True:
    connection, _ = server.accept()
    connection.recv(1024)
    connection.sendall(b\"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n\" + str(os.getpid()).encode())
    connection.close()
";

#[test]
fn what_a_worker_does_to_a_listening_socket_is_not_the_next_ones() {
    for how in ["shut", "keep"] {
        let keys = format!("port = \"listen\"\n{HTTP}\nintensity = 5");
        let mut up = Up::start(|tag| {
            let command = python(SPOILING, tag);
            let command = command.strip_suffix(']').expect("a list");
            pool_of(&format!("{command}, \"{{incarnation}}\", {how:?}]"), &keys)
        });
        let ready = up.wait_for_event("worker.ready");
        assert_eq!(ready["incarnation"], 2, "{how}: {}", up.story());
        let spoiled = up.named("worker.exited").next().expect("the first one");
        assert_eq!(ready["port"], spoiled["port"], "{how}: {}", up.story());
        assert_answers(&ready);
        up.stop_cleanly();
    }
}

#[test]
fn ports_with_names_reach_command_and_environment() {
    let metrics = free_port();
    let command = |tag: &str| {
        let path = program("ostler-test-worker");
        format!(
            "[{:?}, \"metrics+http\", \"{{port.http}}\", {tag:?}]",
            path.display().to_string()
        )
    };
    let keys = format!(
        "ports = {{ http = \"any\", metrics = {metrics} }}\nready = {{ http = \"/\", port = \"metrics\" }}\nhealth = {{ http = \"/\", every = \"50ms\", misses = 1 }}"
    );
    let mut up = Up::start(|tag| pool_of(&command(tag), &keys));
    let ready = up.wait_for_event("worker.ready");
    let ports = ready["ports"].as_object().unwrap();
    assert!(ready.get("port").is_none(), "{ready}");
    assert_eq!(ports.keys().collect::<Vec<_>>(), ["http", "metrics"]);
    assert_eq!(ports["metrics"], metrics);
    let unwell = up.poll(Duration::from_millis(500), |event| event["event"] == "worker.unhealthy");
    assert_eq!(unwell, None, "the health probe uses the port named http");
    for port in ports.values() {
        let port = u16::try_from(port.as_u64().unwrap()).unwrap();
        assert_eq!(get(("127.0.0.1", port)).unwrap(), pid_of(&ready).to_string());
    }
    let second = replaced(&mut up, &ready);
    assert_eq!(second["ports"], ready["ports"]);
    up.stop_cleanly();
}

#[test]
fn ipv6_address_is_probed_over_ipv6() {
    let keys = format!("address = \"::1\"\nport = \"any\"\n{HTTP}");
    let mut up = Up::start(|tag| pool("http6", tag, &keys));
    let ready = up.wait_for_event("worker.ready");
    assert_eq!(get(("::1", port_of(&ready))).unwrap(), pid_of(&ready).to_string());
    let second = replaced(&mut up, &ready);
    assert_eq!(second["port"], ready["port"]);
    up.stop_cleanly();
}
