//! `ostler doctor` on this machine, and on the same machine with something taken away.

use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::geteuid;
use ostler_tests::scene::{reachable_copy, unshared};
use ostler_tests::{config, program, worker};
use serde_json::Value;

/// A user id that nothing else uses.
const USER: &str = "64150";

/// The report as JSON, and the exit status.
struct Report {
    status: i32,
    value: Value,
}

impl Report {
    fn by(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output().expect("running ostler");
        let text = String::from_utf8_lossy(&output.stdout);
        let value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{}", stderr(&output.stderr)));
        Self {
            status: output.status.code().expect("exit status"),
            value,
        }
    }

    fn finding(&self, check: &str) -> &Value {
        let list = self.value["findings"].as_array().expect("array of findings");
        let found = list.iter().find(|finding| finding["check"] == check);
        found.unwrap_or_else(|| panic!("no {check} in {}", self.value))
    }

    fn level(&self, check: &str) -> &str {
        self.finding(check)["level"].as_str().expect("level of the finding")
    }

    fn says(&self, check: &str, field: &str, what: &str) {
        let text = self.finding(check)[field].as_str().unwrap_or_default();
        assert!(text.contains(what), "{what:?} missing in {text:?}");
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

/// Wraps the command in a line of shell that runs it at the end.
fn under(shell: &str, command: &Command) -> Command {
    let mut outer = Command::new("sh");
    outer
        .args(["-c", shell])
        .arg(command.get_program())
        .args(command.get_args());
    outer
}

#[test]
fn basic_checks_hold_on_every_test_machine() {
    let directory = tempfile::tempdir().unwrap();
    let report = Report::by(&mut doctor(directory.path()));
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
        assert_eq!(report.level(check), "holds", "{}", report.value);
    }
    report.says("state", "found", &directory.path().display().to_string());
    let list = report.value["findings"].as_array().unwrap();
    let all_hold = list.iter().all(|finding| finding["level"] == "holds");
    assert_eq!(report.status, i32::from(!all_hold), "{}", report.value);
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        0,
        "nothing is left"
    );
}

#[test]
fn text_output_has_the_same_findings() {
    let directory = tempfile::tempdir().unwrap();
    let report = Report::by(&mut doctor(directory.path()));
    let mut command = Command::new(program("ostler"));
    command.args(["doctor", "--state-dir"]).arg(directory.path());
    let output = command.output().unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(report.status));
    for finding in report.value["findings"].as_array().unwrap() {
        // The exact process counts change all the time.
        let fields = ["check", "level", "means"]
            .iter()
            .filter(|field| **field != "means" || finding["check"] != "processes");
        for field in fields {
            assert!(page.contains(finding[field].as_str().unwrap()), "{finding}\n{page}");
        }
    }
}

#[test]
fn configuration_sets_the_directory_and_the_required_workers() {
    let directory = tempfile::tempdir().unwrap();
    let pool = |workers: u32| format!("[pool.p]\ncommand = {}\nworkers = {workers}\n", worker("sleep", "x"));
    let report = |workers: u32, shell: &str| {
        let mut command = Command::new(program("ostler"));
        command
            .args(["doctor", "--json"])
            .arg(config(directory.path(), &pool(workers)));
        Report::by(&mut under(shell, &command))
    };
    let few = report(20, "ulimit -n 100; exec \"$0\" \"$@\"");
    assert_eq!(few.level("descriptors"), "holds");
    few.says("state", "found", &directory.path().display().to_string());
    let many = report(21, "ulimit -n 100; exec \"$0\" \"$@\"");
    assert_eq!((many.level("descriptors"), many.status), ("weaker", 1));
    many.says("descriptors", "means", "room for 20 of 21 workers");
    many.says("descriptors", "advice", "LimitNOFILE");
}

#[test]
fn invalid_configuration_is_2_and_unwritable_directory_is_1() {
    let directory = tempfile::tempdir().unwrap();
    let file = config(directory.path(), "[pool.p]\ncomand = [\"true\"]\n");
    let wrong = Command::new(program("ostler"))
        .arg("doctor")
        .arg(file)
        .output()
        .unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    let report = Report::by(&mut doctor(Path::new("/proc/self")));
    assert_eq!((report.level("state"), report.status), ("broken", 1));
    report.says("state", "advice", "choose another state directory");
}

/// Without cgroups every promise but one holds, and the report says which.
#[test]
fn without_cgroups_the_report_says_what_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    for (shell, found) in [
        ("umount -a -t cgroup2 && exec \"$0\" \"$@\"", "no cgroup v2"),
        (
            "for at in $(findmnt -n -o TARGET -t cgroup2); do mount -o remount,bind,ro $at; done; exec \"$0\" \"$@\"",
            "is not writable",
        ),
    ] {
        let Some(wrapper) = unshared(&["--mount"]) else { return };
        let mut command = Command::new(&wrapper[0]);
        command.args(&wrapper[1..]).args(["sh", "-c", shell]);
        let doctor = doctor(directory.path());
        command.arg(doctor.get_program()).args(doctor.get_args());
        let report = Report::by(&mut command);
        assert_eq!(
            (report.level("cgroup"), report.status),
            ("weaker", 1),
            "{}",
            report.value
        );
        report.says("cgroup", "found", found);
        report.says("cgroup", "means", "at the same moment");
    }
}

/// If memory files must not be executed, the guardian's program is run from a file, and the report
/// says from which.
#[test]
fn without_executable_memory_files_the_guardian_runs_from_the_cache() {
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
    let report = Report::by(&mut command);
    assert_eq!(report.level("guardian"), "holds");
    report.says("guardian", "found", &cache.display().to_string());
    report.says("guardian", "found", "vm.memfd_noexec = 2");
    report.says("namespace", "means", "another one");
}

#[test]
fn as_pid_1_it_recommends_an_init() {
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
    let report = Report::by(&mut command);
    assert_eq!((report.level("namespace"), report.status), ("weaker", 1));
    report.says("namespace", "advice", "init");
}

#[test]
fn unprivileged_user_sees_its_own_limits() {
    if !geteuid().is_root() {
        return eprintln!("skipped: the other tests already run unprivileged");
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
    let report = Report::by(&mut command);
    assert_eq!(
        (report.level("cgroup"), report.status),
        ("weaker", 1),
        "{}",
        report.value
    );
    report.says("cgroup", "advice", "Delegate=yes");
    for check in ["guardian", "state", "subreaper", "pidfd"] {
        assert_eq!(report.level(check), "holds", "{}", report.value);
    }
    report.says("processes", "found", "user 40");
    report.says("processes", "means", "about 19 workers");
}
