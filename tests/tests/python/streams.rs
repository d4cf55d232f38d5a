//! Streams in both directions, over both transports.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use ostler::chain;
use ostler_serve::stdio::{Packet, ResponseStream, StdioError};
use ostler_serve::{CallError, CallOptions, Lost, OnCancel};

use ostler_python::Python;

use crate::scene::{Scene, over_both_transports, until};

over_both_transports!(
    generators_stream_their_items_and_the_worker_is_free_at_their_end,
    handlers_read_streams_and_answer_with_streams,
    a_stream_waits_for_its_reader_and_a_dropped_one_is_cancelled_in_the_handler,
    streams_end_with_the_handlers_exception_a_lost_worker_or_the_deadline,
    a_reader_that_gives_up_has_the_worker_replaced_where_the_pool_says_so,
    a_call_that_is_dropped_while_it_sends_is_no_end_of_its_stream,
);

async fn generators_stream_their_items_and_the_worker_is_free_at_their_end(python: Python) {
    let scene = Scene::start(python).await;
    for method in ["count", "count_later"] {
        let client = scene.pool.method::<u32, u32>(method);
        let mut items = client.stream(&1000).await.expect("a stream");
        let mut count = 0;
        while let Some(item) = items.next().await {
            assert_eq!(item.expect("an item"), count);
            count += 1;
        }
        assert_eq!(count, 1000);
        assert!(items.next().await.is_none(), "it stays at its end");
        let collected: Vec<_> = client.stream(&3).await.expect("a stream").into_stream().collect().await;
        assert_eq!(collected.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [0, 1, 2]);
        let empty = client.stream(&0).await.expect("a stream").next().await;
        assert!(empty.is_none());
    }
    assert_eq!(scene.pool.state().in_flight, 0);
    scene.end().await;
}

async fn handlers_read_streams_and_answer_with_streams(python: Python) {
    let scene = Scene::start(python).await;
    let options = CallOptions::new();
    let total = scene.pool.method::<u32, u32>("total");
    let sum = total.send(stream::iter(1..=1000), &options).await.expect("a sum");
    assert_eq!(sum, 500_500);
    let double = scene.pool.method::<u32, u32>("double");
    let mut doubled = double.exchange(stream::iter(0..200), &options).await.expect("a stream");
    for number in 0..200 {
        assert_eq!(doubled.next().await.expect("an item").expect("an item"), 2 * number);
    }
    assert!(doubled.next().await.is_none());
    scene.end().await;
}

/// The items of a generator that has no end.
async fn ticks(scene: &Scene) -> ResponseStream<u64, Packet> {
    let client = scene.pool.method::<(), u64>("tick");
    client.stream(&()).await.expect("a stream")
}

/// The generator has no end: without back-pressure its items would fill the memory.
async fn a_stream_waits_for_its_reader_and_a_dropped_one_is_cancelled_in_the_handler(python: Python) {
    let scene = Scene::start_with(python, |spec| spec.serve.on_cancel = OnCancel::Reuse).await;
    let before = scene.pids();
    let mut ticks = ticks(&scene).await;
    for number in 0..100 {
        assert_eq!(ticks.next().await.expect("an item").expect("an item"), number);
    }
    drop(ticks);
    let yielded: u64 = scene
        .bed
        .within("an answer", scene.pool.call("ticks_yielded", &()))
        .await
        .expect("an answer");
    assert!(
        (100..=100 + 17).contains(&yielded),
        "{yielded} items, and 100 were read"
    );
    until("the handler sees an exception", || {
        scene.bed.history().contains("the stream was cancelled")
    })
    .await;
    assert_eq!(scene.pids(), before);
    scene.end().await;
}

async fn streams_end_with_the_handlers_exception_a_lost_worker_or_the_deadline(python: Python) {
    let mut scene = Scene::start(python).await;
    let breaking = scene.pool.method::<String, u32>("count_and");
    let mut items = breaking.stream(&"raise".to_owned()).await.expect("a stream");
    assert_eq!(items.next().await.expect("an item").expect("an item"), 0);
    let error = items.next().await.expect("an end").expect_err("it raises");
    assert_eq!(error.exception().expect("an exception").kind, "ValueError");
    assert!(items.next().await.is_none());

    let early = scene
        .pool
        .call::<_, u32>("count", &3)
        .await
        .expect_err("it is a stream");
    assert!(chain(&early).contains("use `stream`"), "{early}");
    // A generator without an end is stopped, or the worker would never be free again.
    scene
        .pool
        .call::<_, u64>("tick", &())
        .await
        .expect_err("it is a stream, too");
    let echoed = scene
        .bed
        .within("an answer", scene.pool.call::<_, u8>("echo", &1))
        .await;
    assert_eq!(echoed.expect("an answer"), 1);
    let late = scene.pool.method::<u32, u32>("echo").stream(&3).await;
    let late = late
        .expect("an answer")
        .next()
        .await
        .expect("an end")
        .expect_err("it is none");
    assert!(chain(&late).contains("use `call`"), "{late}");

    scene.bed.allow_failures("py/0");
    let mut items = breaking.stream(&"wait".to_owned()).await.expect("a stream");
    assert_eq!(items.next().await.expect("an item").expect("an item"), 0);
    ostler_tests::send(scene.pids()[0], nix::sys::signal::Signal::SIGKILL);
    let error = items.next().await.expect("an end").expect_err("the worker ends");
    let StdioError::Call(CallError::Unknown(unknown)) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(unknown.cause, Lost::Worker, "{unknown}");
    scene.replaced().await;

    // The deadline is for the stream, and not for the replacement's start.
    let echoed = scene
        .bed
        .within("an answer", scene.pool.call::<_, u8>("echo", &1))
        .await;
    assert_eq!(echoed.expect("an answer"), 1);
    let options = CallOptions::new().timeout(Duration::from_secs(3));
    let mut items = breaking
        .stream_with(&"wait".to_owned(), &options)
        .await
        .expect("a stream");
    assert_eq!(items.next().await.expect("an item").expect("an item"), 0);
    let error = items.next().await.expect("an end").expect_err("the deadline passes");
    let code = error.exception().map(|exception| exception.code.as_str());
    assert_eq!(code, Some("deadline_exceeded"), "{error:?}");
    assert_eq!(
        scene.pool.pool().workers()[0].incarnation.map(|number| number.0),
        Some(2),
        "the worker has noticed by itself"
    );
    scene.end().await;
}

async fn a_reader_that_gives_up_has_the_worker_replaced_where_the_pool_says_so(python: Python) {
    let mut scene = Scene::start(python).await;
    let mut ticks = ticks(&scene).await;
    ticks.next().await.expect("an item").expect("an item");
    drop(ticks);
    scene.replaced().await;
    assert_eq!(scene.pool.call::<_, u8>("echo", &1).await.expect("an answer"), 1);
    scene.end().await;
}

/// A handler that takes the end of its stream for the end of the data must not see one.
async fn a_call_that_is_dropped_while_it_sends_is_no_end_of_its_stream(python: Python) {
    let scene = Scene::start_with(python, |spec| spec.serve.on_cancel = OnCancel::Reuse).await;
    let gather = scene.pool.method::<u32, u32>("gather");
    let sending = tokio::spawn(async move {
        let endless = stream::iter(0..3).chain(stream::pending());
        gather.send(endless, &CallOptions::new()).await
    });
    until("the handler has read what there is", || {
        scene.bed.history().contains("gather has read 3")
    })
    .await;
    sending.abort();
    sending.await.expect_err("it is dropped");
    until("the handler sees an exception", || {
        scene.bed.history().contains("gather was cut off")
    })
    .await;
    assert!(!scene.bed.history().contains("gather has read all"));
    let gather = scene.pool.method::<u32, u32>("gather");
    let read = gather.send(stream::iter(0..3), &CallOptions::new()).await;
    assert_eq!(read.expect("an answer"), 3);
    scene.end().await;
}
