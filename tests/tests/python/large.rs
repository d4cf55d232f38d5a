//! Large data: in shared memory, both ways, and freed whatever dies.

use std::time::Duration;

use futures_util::stream;
use ostler::chain;
use ostler_serve::stdio::{Array, ArrowStream, Blob, StdioError};
use ostler_serve::{CallOptions, OnCancel, WorkerFigures};
use serde_json::Value;

use ostler_python::Python;

use crate::scene::{Scene, over_both_transports, until, with_packages};

over_both_transports!(
    a_result_in_shared_memory_outlives_its_worker_and_is_freed_with_its_last_use,
    bytes_travel_in_shared_memory_and_are_freed_with_their_request,
    a_large_result_is_in_shared_memory_whatever_the_arguments_are,
    a_result_that_no_one_waits_for_is_freed,
    shared_memory_is_freed_when_the_worker_is_killed_or_the_caller_gives_up,
    too_long_messages_are_refused_on_either_side,
    numpy_arrays_travel_both_ways_in_calls_and_streams,
    arrow_tables_travel_both_ways,
);

/// The memory segments that this process lends or has mapped.
fn held_here() -> (usize, usize) {
    let fds = std::fs::read_dir("/proc/self/fd").expect("own descriptors");
    let lent = fds
        .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
        .filter(|target| target.to_string_lossy().contains("memfd:ostler (deleted)"))
        .count();
    let maps = std::fs::read_to_string("/proc/self/maps").expect("own mappings");
    (
        lent,
        maps.lines()
            .filter(|line| line.ends_with("/memfd:ostler (deleted)"))
            .count(),
    )
}

/// The processes of this machine that have a descriptor or a mapping of this segment.
fn holders(inode: u64) -> Vec<i32> {
    use std::os::unix::fs::MetadataExt as _;
    let is_mapped = |pid: i32| {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        maps.lines().any(|line| inode_of(line) == Some(inode))
    };
    let is_open = |pid: i32| {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        let mut paths = fds.map(|fd| fd.path());
        paths.any(|path| {
            std::fs::read_link(&path).is_ok_and(|target| target.to_string_lossy().contains("memfd:ostler"))
                && std::fs::metadata(&path).is_ok_and(|segment| segment.ino() == inode)
        })
    };
    let pids = procfs::process::all_processes()
        .expect("/proc")
        .flatten()
        .map(|process| process.pid);
    pids.filter(|pid| is_mapped(*pid) || is_open(*pid)).collect()
}

/// The inode of a segment in a line of `/proc/PID/maps`.
fn inode_of(line: &str) -> Option<u64> {
    let line = line.strip_suffix("/memfd:ostler (deleted)")?;
    line.split_whitespace().nth(4)?.parse().ok()
}

/// The segments that this process has mapped.
fn mapped_by(pid: u32) -> Vec<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    maps.lines().filter_map(inode_of).collect()
}

/// The tests of this file count the segments of the whole process.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn bytes_travel_in_shared_memory_and_are_freed_with_their_request(python: Python) {
    let _alone = ALONE.lock().await;
    let scene = Scene::start(python).await;
    let data = Blob::from((0..64usize << 20).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    let seen: Value = scene.pool.call("byte", &data).await.expect("an answer");
    assert_eq!(seen["type"], "memoryview", "and not a copy of it");
    assert_eq!(
        (seen["size"].as_u64(), seen["first"].as_u64()),
        (Some(64 << 20), Some(0))
    );
    assert_eq!(held_here(), (0, 0), "what was lent is released with the request");
    let back: Blob = scene.pool.call("echo", &data).await.expect("an answer");
    assert!(back == data);
    assert_eq!(held_here(), (0, 1), "a view of the worker's memory");
    drop(back);
    assert_eq!(held_here(), (0, 0));
    let small: Blob = scene.pool.call("blob", &4096).await.expect("an answer");
    assert_eq!(
        (small.len(), held_here()),
        (4096, (0, 0)),
        "small ones are in the message"
    );
    scene.end().await;
}

/// Waits until the worker's figures show this.
async fn figures_show(scene: &Scene, what: impl Fn(&WorkerFigures) -> bool) {
    let deadline = tokio::time::Instant::now() + ostler_tests::SOON;
    loop {
        let figures = scene.pool.figures(0, ostler_tests::SOON).await.expect("figures");
        if what(&figures) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{figures:?}");
    }
}

/// Waits until the worker lends nothing.
async fn lends_nothing(scene: &Scene) {
    figures_show(scene, |figures| (figures.lent, figures.in_flight) == (0, 0)).await;
}

async fn a_large_result_is_in_shared_memory_whatever_the_arguments_are(python: Python) {
    let _alone = ALONE.lock().await;
    let scene = Scene::start(python).await;
    let before = scene.pids();
    // The last one is longer than any message.
    for size in [1_usize << 20, 3 << 20, 80 << 20] {
        let blob: Blob = scene.pool.call("blob", &size).await.expect("an answer");
        assert_eq!(held_here(), (0, 1), "a view of the worker's memory");
        assert!(blob.len() == size && blob[size - 1] == 255);
        drop(blob);
        assert_eq!(held_here(), (0, 0));
        lends_nothing(&scene).await;
    }
    let calls = (0..20).map(|_| scene.pool.call::<_, Blob>("blob", &(1 << 20)));
    for blob in futures_util::future::join_all(calls).await {
        assert_eq!(blob.expect("an answer").len(), 1 << 20);
    }
    lends_nothing(&scene).await;
    assert_eq!(scene.pids(), before, "the worker is kept");
    scene.end().await;
}

/// The caller has left before the handler returns, and the worker stays.
async fn a_result_that_no_one_waits_for_is_freed(python: Python) {
    let _alone = ALONE.lock().await;
    let scene = Scene::start_with(python, |spec| spec.serve.on_cancel = OnCancel::Reuse).await;
    let before = scene.pids();
    let pool = scene.pool.clone();
    let call = tokio::spawn(async move { pool.call::<_, Blob>("blob_when_cancelled", &(4 << 20)).await });
    figures_show(&scene, |figures| figures.in_flight > 0).await;
    call.abort();
    call.await.expect_err("it is aborted");
    // It runs when the handler has returned.
    assert_eq!(scene.pool.call::<_, u8>("echo", &1).await.expect("an answer"), 1);
    lends_nothing(&scene).await;
    assert_eq!(held_here(), (0, 0));
    assert_eq!(scene.pids(), before);
    scene.end().await;
}

async fn numpy_arrays_travel_both_ways_in_calls_and_streams(python: Python) {
    let Some(python) = with_packages(python) else {
        return;
    };
    let _alone = ALONE.lock().await;
    let scene = Scene::start(python).await;
    let array = Array::new([1024, 1024], (0..1 << 20).map(|n| n as f32).collect()).expect("2^20 numbers");
    let doubled: Array = scene.pool.call("scale", &array).await.expect("an answer");
    assert_eq!((doubled.dtype(), doubled.shape()), ("<f4", &[1024, 1024][..]));
    assert_eq!(doubled.as_slice::<f32>().expect("floats")[12345], 24690.0);
    let small = Array::new([3], vec![1i64, 2, 3]).expect("three numbers");
    let doubled: Array = scene.pool.call("scale", &small).await.expect("an answer");
    assert_eq!(doubled.to_vec::<i64>(), Some(vec![2, 4, 6]));
    drop(doubled);

    // More items than may be on their way at once: their segments are released as they are read.
    let scales = scene.pool.method::<Array, Array>("scales");
    let items =
        stream::iter((0..40).map(move |n| Array::new([1 << 18], vec![f64::from(n); 1 << 18]).expect("an array")));
    let mut results = scales.exchange(items, &CallOptions::new()).await.expect("a stream");
    let mut most = 0;
    for n in 0..40 {
        let item = results.next().await.expect("an item").expect("an item");
        assert_eq!(item.as_slice::<f64>().expect("floats")[7], f64::from(2 * n));
        most = most.max(held_here().0);
    }
    assert!(results.next().await.is_none());
    assert!(most <= 17, "{most} segments were lent at once");
    drop((results, array));
    scene.end().await;
}

/// A table of pyarrow is Arrow's own format on the way, and in shared memory where it is large.
async fn arrow_tables_travel_both_ways(python: Python) {
    let Some(python) = with_packages(python) else {
        return;
    };
    let _alone = ALONE.lock().await;
    let scene = Scene::start(python).await;
    for (rows, shared) in [(3_u64, 0), (200_000, 1)] {
        let table: ArrowStream = scene.pool.call("table", &rows).await.expect("a table");
        let before = held_here().1;
        let back: ArrowStream = scene.pool.call("echo", &table).await.expect("a table");
        assert_eq!(held_here(), (0, before + shared), "{rows} rows");
        assert_eq!(back.0.len(), table.0.len());
        drop(back);
        // An Arrow stream begins with a continuation marker.
        assert_eq!(table.0[..4], [0xff; 4]);
        let seen: Value = scene.pool.call("sum_of", &table).await.expect("an answer");
        assert_eq!(
            seen,
            serde_json::json!({"type": "Table", "rows": rows, "sum": rows * (rows - 1) / 2})
        );
        drop(table);
        assert_eq!(held_here(), (0, 0));
    }
    scene.end().await;
}

async fn shared_memory_is_freed_when_the_worker_is_killed_or_the_caller_gives_up(python: Python) {
    let _alone = ALONE.lock().await;
    let mut scene = Scene::start(python).await;
    scene.bed.allow_failures("py/0");
    let data = Blob::from(vec![1; 8 << 20]);
    for kill in [true, false] {
        scene.bed.from_now();
        let pool = scene.pool.clone();
        let held = data.clone();
        let call = tokio::spawn(async move { pool.call::<_, ()>("hold", &held).await });
        let pid = scene.pids()[0];
        until("the worker has mapped it", || !mapped_by(pid).is_empty()).await;
        assert_eq!(held_here().0, 1);
        let segment = mapped_by(pid)[0];
        let mut both = [std::process::id(), pid].map(u32::cast_signed);
        both.sort_unstable();
        let mut found = holders(segment);
        found.sort_unstable();
        assert_eq!(found, both);
        if kill {
            ostler_tests::send(pid, nix::sys::signal::Signal::SIGKILL);
            let lost = call.await.expect("no panic").expect_err("it is lost");
            assert!(
                matches!(lost, StdioError::Call(ostler_serve::CallError::Unknown(_))),
                "{lost:?}"
            );
        } else {
            call.abort();
            call.await.expect_err("it is aborted");
        }
        assert_eq!(held_here(), (0, 0));
        scene.replaced().await;
        assert_eq!(holders(segment), [0; 0], "no process has it any more");
    }
    assert_eq!(scene.pool.call::<_, u8>("echo", &1).await.expect("an answer"), 1);
    scene.end().await;
}

/// The host's own mapping outlives its worker, and is the last one.
async fn a_result_in_shared_memory_outlives_its_worker_and_is_freed_with_its_last_use(python: Python) {
    let _alone = ALONE.lock().await;
    let mut scene = Scene::start(python).await;
    scene.bed.allow_failures("py/0");
    let data = Blob::from((0..8usize << 20).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    let result: Blob = scene.pool.call("echo", &data).await.expect("an answer");
    let us = std::process::id();
    let [segment] = mapped_by(us)[..] else {
        panic!("one mapping: {:?}", mapped_by(us))
    };
    scene.bed.from_now();
    ostler_tests::send(scene.pids()[0], nix::sys::signal::Signal::SIGKILL);
    scene.replaced().await;
    assert_eq!(holders(segment), [us.cast_signed()]);
    assert!(result == data, "it can be read without its worker");
    drop(result);
    assert_eq!(holders(segment), [0; 0], "no process has it any more");
    scene.end().await;
}

/// A message that is too long is refused with what to do, and no worker is blamed.
async fn too_long_messages_are_refused_on_either_side(python: Python) {
    let _alone = ALONE.lock().await;
    let scene = Scene::start(python).await;
    let before = scene.pids();
    let huge = "x".repeat(65 << 20);
    let refused = scene
        .pool
        .call::<_, Value>("echo", &huge)
        .await
        .expect_err("it is too long");
    assert!(chain(&refused).contains("send bytes as Blob"), "{refused}");
    let options = CallOptions::new().timeout(Duration::from_secs(60));
    let refused = scene
        .pool
        .call_with::<_, Value>("repeat", &(65 << 20), &options)
        .await
        .expect_err("the result is too long");
    assert_eq!(refused.exception().expect("an error").code, "invalid_result");
    assert_eq!(scene.pids(), before);
    scene.end().await;
}
