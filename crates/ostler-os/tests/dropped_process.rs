//! A dropped handle leaves the set of ends. Alone in its program: a child that another test is
//! starting has copies of all descriptors until its exec, and would keep the process in the set.

use std::process::Command;

use ostler_os::identity::ProcessHandle;
use ostler_os::process_ends::ProcessEnds;

#[test]
fn a_dropped_handle_is_no_longer_in_the_set() {
    let ends = ProcessEnds::new().unwrap();
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let handle = ProcessHandle::open(child.id().cast_signed()).unwrap().unwrap();
    ends.add(&handle, 1).unwrap();
    drop(handle);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(ends.take().unwrap(), []);
}
