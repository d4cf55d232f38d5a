//! `ostler doctor` on this machine, and on the same machine with something taken away.

use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::geteuid;
use ostler_tests::scene::{reachable_copy, unshared};
use ostler_tests::{config, program, worker};
use serde_json::Value;

/// A user that nobody else is.
const USER: &str = "64150";

/// What it says, in JSON, with its exit status.
struct Told {
    status: i32,
    value: Value,
}

impl Told {
    fn by(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output().expect("ostler runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{}", stderr(&output.stderr)));
        Self {
            status: output.status.code().expect("it exits"),
            value,
        }
    }

    fn finding(&self, check: &str) -> &Value {
        let list = self.value["findings"].as_array().expect("a list");
        let found = list.iter().find(|finding| finding["check"] == check);
        found.unwrap_or_else(|| panic!("no {check} in {}", self.value))
    }

    fn level(&self, check: &str) -> &str {
        self.finding(check)["level"].as_str().expect("a word")
    }

    fn says(&self, check: &str, field: &str, what: &str) {
        let text = self.finding(check)[field].as_str().unwrap_or_default();
        assert!(text.contains(what), "{what:?} is not in {text:?}");
    }
}

fn stderr(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn doctor(state: &Path) -> Command {
    let mut command = Command::new(program("ostler"));
    command.args(["doctor", "--json", "--state-dir"]).arg(state);
    command
}

/// The same under a line of shell that ends by running it.
fn under(shell: &str, command: &Command) -> Command {
    let mut outer = Command::new("sh");
    outer
        .args(["-c", shell])
        .arg(command.get_program())
        .args(command.get_args());
    outer
}

#[test]
fn what_every_machine_of_these_tests_must_have_holds() {
    let directory = tempfile::tempdir().unwrap();
    let told = Told::by(&mut doctor(directory.path()));
    for check in [
        "kernel",
        "proc",
        "subreaper",
        "pidfd",
        "guardian",
        "state",
        "descriptors",
        "processes",
    ] {
        assert_eq!(told.level(check), "holds", "{}", told.value);
    }
    told.says("state", "found", &directory.path().display().to_string());
    let list = told.value["findings"].as_array().unwrap();
    let all_hold = list.iter().all(|finding| finding["level"] == "holds");
    assert_eq!(told.status, i32::from(!all_hold), "{}", told.value);
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        0,
        "nothing is left"
    );
}

#[test]
fn people_get_a_page_with_the_same_findings() {
    let directory = tempfile::tempdir().unwrap();
    let told = Told::by(&mut doctor(directory.path()));
    let mut command = Command::new(program("ostler"));
    command.args(["doctor", "--state-dir"]).arg(directory.path());
    let output = command.output().unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(told.status));
    for finding in told.value["findings"].as_array().unwrap() {
        // What is left of processes changes all the time.
        let fields = ["check", "level", "means"]
            .iter()
            .filter(|field| **field != "means" || finding["check"] != "processes");
        for field in fields {
            assert!(page.contains(finding[field].as_str().unwrap()), "{finding}\n{page}");
        }
    }
}

#[test]
fn a_file_names_the_directory_and_how_many_workers_must_have_room() {
    let directory = tempfile::tempdir().unwrap();
    let pool = |workers: u32| format!("[pool.p]\ncommand = {}\nworkers = {workers}\n", worker("sleep", "x"));
    let told = |workers: u32, shell: &str| {
        let mut command = Command::new(program("ostler"));
        command
            .args(["doctor", "--json"])
            .arg(config(directory.path(), &pool(workers)));
        Told::by(&mut under(shell, &command))
    };
    let few = told(20, "ulimit -n 60; exec \"$0\" \"$@\"");
    assert_eq!(few.level("descriptors"), "holds");
    few.says("state", "found", &directory.path().display().to_string());
    let many = told(21, "ulimit -n 60; exec \"$0\" \"$@\"");
    assert_eq!((many.level("descriptors"), many.status), ("weaker", 1));
    many.says("descriptors", "means", "of 21 workers 20 fit");
    many.says("descriptors", "advice", "LimitNOFILE");
}

#[test]
fn a_file_that_is_wrong_is_2_and_a_directory_that_cannot_be_written_is_1() {
    let directory = tempfile::tempdir().unwrap();
    let file = config(directory.path(), "[pool.p]\ncomand = [\"true\"]\n");
    let wrong = Command::new(program("ostler"))
        .arg("doctor")
        .arg(file)
        .output()
        .unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    let told = Told::by(&mut doctor(Path::new("/proc/self")));
    assert_eq!((told.level("state"), told.status), ("broken", 1));
    told.says("state", "advice", "choose another state directory");
}

/// Without cgroups in sight all but one promise holds, and it says which.
#[test]
fn without_cgroups_it_says_what_they_would_give() {
    let directory = tempfile::tempdir().unwrap();
    for (shell, found) in [
        ("umount -a -t cgroup2 && exec \"$0\" \"$@\"", "no cgroup v2"),
        (
            "for at in $(findmnt -n -o TARGET -t cgroup2); do mount -o remount,bind,ro $at; done; exec \"$0\" \"$@\"",
            "can't be written",
        ),
    ] {
        let Some(wrapper) = unshared(&["--mount"]) else { return };
        let mut command = Command::new(&wrapper[0]);
        command.args(&wrapper[1..]).args(["sh", "-c", shell]);
        let doctor = doctor(directory.path());
        command.arg(doctor.get_program()).args(doctor.get_args());
        let told = Told::by(&mut command);
        assert_eq!((told.level("cgroup"), told.status), ("weaker", 1), "{}", told.value);
        told.says("cgroup", "found", found);
        told.says("cgroup", "means", "at one moment");
    }
}

/// Memory files may not be executed: the guardian's program comes from a file, and it says from which.
#[test]
fn where_memory_files_may_not_run_the_guardian_comes_from_the_cache() {
    let Some(wrapper) = unshared(&["--pid", "--fork", "--mount-proc"]) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("cache");
    let mut command = Command::new(&wrapper[0]);
    command.args(&wrapper[1..]).args([
        "sh",
        "-c",
        "echo 2 > /proc/sys/vm/memfd_noexec || exit 77; \"$0\" \"$@\"; exit $?",
    ]);
    let doctor = doctor(directory.path());
    command.arg(doctor.get_program()).args(doctor.get_args());
    command.env("XDG_CACHE_HOME", &cache);
    let told = Told::by(&mut command);
    assert_eq!(told.level("guardian"), "holds");
    told.says("guardian", "found", &cache.display().to_string());
    told.says("guardian", "found", "vm.memfd_noexec = 2");
    told.says("namespace", "means", "another one");
}

#[test]
fn as_pid_1_it_asks_for_an_init() {
    let Some(wrapper) = unshared(&["--pid", "--fork", "--mount-proc"]) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let doctor = doctor(directory.path());
    let mut command = Command::new(&wrapper[0]);
    command
        .args(&wrapper[1..])
        .arg(doctor.get_program())
        .args(doctor.get_args());
    let told = Told::by(&mut command);
    assert_eq!((told.level("namespace"), told.status), ("weaker", 1));
    told.says("namespace", "advice", "init");
}

#[test]
fn an_unprivileged_user_is_told_of_its_own_limits() {
    if !geteuid().is_root() {
        return eprintln!("skipped: the other tests have just run as this user");
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let copy = reachable_copy("ostler", directory.path());
    let mut command = Command::new("prlimit");
    command
        .args([
            "--nproc=40",
            "setpriv",
            "--reuid",
            USER,
            "--regid",
            USER,
            "--clear-groups",
        ])
        .arg(copy)
        .args(["doctor", "--json", "--state-dir"])
        .arg(directory.path());
    let told = Told::by(&mut command);
    assert_eq!((told.level("cgroup"), told.status), ("weaker", 1), "{}", told.value);
    told.says("cgroup", "advice", "Delegate=yes");
    for check in ["guardian", "state", "subreaper", "pidfd"] {
        assert_eq!(told.level(check), "holds", "{}", told.value);
    }
    told.says("processes", "found", "user 40");
    told.says("processes", "means", "about 19 workers");
}
