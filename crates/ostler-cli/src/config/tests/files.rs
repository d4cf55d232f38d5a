//! Files that can't be read, and the paths in a file.

use super::*;

#[test]
fn relative_paths_are_relative_to_the_file() {
    let worker = |lines: &str| {
        read(&format!("{APP}[pool.web]\n{lines}\n"))
            .unwrap()
            .pools
            .remove(0)
            .worker
    };
    let plain = worker("command = [\"./w.sh\", \"./argument\"]");
    assert_eq!(plain.command, ["/srv/demo/w.sh", "./argument"]);
    assert_eq!(plain.cwd, Some("/srv/demo".into()));
    let below = worker("command = [\"bin/w\"]\ncwd = \"data\"");
    assert_eq!(below.command, ["/srv/demo/bin/w"]);
    assert_eq!(below.cwd, Some("/srv/demo/data".into()));
    let fixed = worker("command = [\"/bin/w\"]\ncwd = \"/data\"");
    assert_eq!(
        (fixed.command, fixed.cwd),
        (vec!["/bin/w".to_owned()], Some("/data".into()))
    );
    assert_eq!(worker("command = [\"w\"]").command, ["w"], "from PATH");
}

#[test]
fn files_without_a_specification() {
    assert_eq!(
        mistakes(""),
        [
            "ostler.toml:1:1: app: missing; add a table [app] with a name for this app, for example name = \"demo\"",
            "ostler.toml:1:1: pool: no pool; add a table such as [pool.web] with a command",
        ]
    );
    assert_eq!(
        mistakes(&format!("{APP}[pool]\n")),
        ["ostler.toml:3:2: pool: no pool; add a table such as [pool.web] with a command"]
    );
    assert_eq!(
        mistakes("app = 3\npool = \"web\""),
        [
            "ostler.toml:1:7: app: expected a table, found the integer 3",
            "ostler.toml:2:8: pool: expected a table, found the string \"web\"",
        ]
    );
    let found = parse("a.toml", Path::new("/"), b"[app]\nname = \"\xff\"")
        .map_err(joined)
        .unwrap_err();
    assert_eq!(found, "a.toml:2:9: the byte 0xff is not valid UTF-8");
}

#[test]
fn invalid_toml_is_reported_with_what_can_be_read() {
    let found = mistakes(
        "[app]\nname = \"demo\"\nname = \"twice\"\n[pool.web]\ncommand = [\"x\"\nworkers = 1\n[pool.b]\nworkers = \"x\"\n",
    );
    assert!(found[0].starts_with("ostler.toml:3:1: duplicate key"), "{found:?}");
    assert!(
        found
            .iter()
            .any(|line| line.starts_with("ostler.toml:5:") || line.starts_with("ostler.toml:6:")),
        "{found:?}"
    );
}

#[test]
fn files_that_can_not_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let found = |path: &Path| load(path).map_err(joined).unwrap_err();
    let missing = dir.path().join("none.toml");
    assert_eq!(found(&missing), format!("{}: no such file", missing.display()));
    assert_eq!(
        found(dir.path()),
        format!("{}: a directory; expected a TOML file", dir.path().display())
    );
    assert_eq!(
        found(Path::new("/dev/zero")),
        "/dev/zero: larger than 16 MiB; expected a TOML file of pools"
    );
}

#[test]
fn paths_are_relative_to_the_files_directory() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.toml");
    std::fs::write(
        &file,
        "[app]\nname = \"a\"\nstate_dir = \"s\"\n[pool.p]\ncommand = [\"x\"]\ncwd = \"sub\"\n",
    )
    .unwrap();
    let config = load(&file).unwrap();
    assert_eq!(config.app.state_dir, Some(dir.path().join("s")));
    assert_eq!(config.pools[0].worker.cwd, Some(dir.path().join("sub")));
}

#[test]
fn a_file_named_without_its_directory_is_in_the_current_one() {
    let current = std::env::current_dir().expect("a current directory");
    assert_eq!(super::super::directory_of("ostler.toml".as_ref()), current);
    assert_eq!(super::super::directory_of("./ostler.toml".as_ref()), current);
    assert_eq!(
        super::super::directory_of("sub/ostler.toml".as_ref()),
        current.join("sub")
    );
    assert_eq!(
        super::super::directory_of("/srv/ostler.toml".as_ref()),
        std::path::Path::new("/srv")
    );
}
