//! Blocking work that many want at the same time: it is done once for all of them.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Work whose result serves everyone who asked before it began. Who asks while it runs gets the
/// result of the next run, because this one may have passed what the question is about. So any
/// number of questions at the same time costs two runs at most.
pub(crate) struct SharedWork<T> {
    work: Arc<dyn Fn() -> T + Send + Sync>,
    questions: Arc<Mutex<Questions<T>>>,
}

struct Questions<T> {
    /// Those that the next run answers.
    waiting: Vec<oneshot::Sender<T>>,
    /// Whether a runner exists, which takes them.
    has_runner: bool,
}

impl<T: Clone + Send + 'static> SharedWork<T> {
    pub(crate) fn new(work: impl Fn() -> T + Send + Sync + 'static) -> Self {
        Self {
            work: Arc::new(work),
            questions: Arc::new(Mutex::new(Questions {
                waiting: Vec::new(),
                has_runner: false,
            })),
        }
    }

    /// The result of a run that begins after this call. `None` if it is lost: the work panicked, or
    /// the runtime is shutting down. May be dropped.
    pub(crate) async fn result(&self) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        let has_runner = {
            let mut questions = locked(&self.questions);
            questions.waiting.push(sender);
            std::mem::replace(&mut questions.has_runner, true)
        };
        if !has_runner {
            let runner = Runner {
                work: Arc::clone(&self.work),
                questions: Arc::clone(&self.questions),
                asked: Vec::new(),
                is_done: false,
            };
            tokio::task::spawn_blocking(move || runner.run());
        }
        answer.await.ok()
    }
}

impl<T> fmt::Debug for SharedWork<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedWork").finish_non_exhaustive()
    }
}

/// Does the work until no one asks for it.
struct Runner<T> {
    work: Arc<dyn Fn() -> T + Send + Sync>,
    questions: Arc<Mutex<Questions<T>>>,
    /// Those that this run answers. Here, so that they outlive `drop` if the work panics: who
    /// learns that an answer is lost may ask again at once, and needs another runner.
    asked: Vec<oneshot::Sender<T>>,
    is_done: bool,
}

impl<T: Clone> Runner<T> {
    fn run(mut self) {
        while self.take_questions() {
            let result = (self.work)();
            while let Some(question) = self.asked.pop() {
                // Fails if it was dropped.
                drop(question.send(result.clone()));
            }
        }
    }

    /// Returns whether there were any.
    fn take_questions(&mut self) -> bool {
        let mut questions = locked(&self.questions);
        if questions.waiting.is_empty() {
            // From here on there may be another runner, which is none of this one's business.
            questions.has_runner = false;
            self.is_done = true;
            return false;
        }
        self.asked = std::mem::take(&mut questions.waiting);
        true
    }
}

/// A runner that panicked, or that a runtime which shuts down never let begin, answers no one; the
/// next question gets another one.
impl<T> Drop for Runner<T> {
    fn drop(&mut self) {
        if !self.is_done {
            let lost = {
                let mut questions = locked(&self.questions);
                questions.has_runner = false;
                std::mem::take(&mut questions.waiting)
            };
            drop(lost);
        }
    }
}

fn locked<T>(questions: &Mutex<Questions<T>>) -> MutexGuard<'_, Questions<T>> {
    questions.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::task::{Context, Poll, Wake, Waker};
    use std::time::Duration;

    use futures_util::future::{BoxFuture, join_all, ready};
    use futures_util::{FutureExt as _, poll};

    use super::*;

    /// Work that counts its runs; the first one reports that it has begun, and waits for permission
    /// to end.
    fn work() -> (SharedWork<usize>, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (begins, begun) = mpsc::channel();
        let (permit, permitted) = mpsc::channel();
        let (runs, permitted) = (AtomicUsize::new(0), Mutex::new(permitted));
        let shared = SharedWork::new(move || {
            let run = runs.fetch_add(1, Ordering::Relaxed) + 1;
            if run == 1 {
                begins.send(()).unwrap();
                permitted.lock().unwrap().recv().unwrap();
            }
            run
        });
        (shared, begun, permit)
    }

    #[tokio::test]
    async fn all_who_ask_while_it_runs_share_the_next_run() {
        let (shared, begun, permit) = work();
        let mut first = Box::pin(shared.result());
        assert!(poll!(&mut first).is_pending());
        begun.recv().unwrap();
        let mut later = Box::pin(join_all((0..1000).map(|_| shared.result())));
        assert!(poll!(&mut later).is_pending());
        permit.send(()).unwrap();
        assert_eq!(first.await, Some(1));
        assert_eq!(later.await, vec![Some(2); 1000]);
        assert_eq!(shared.result().await, Some(3), "a later question gets a run of its own");
    }

    #[tokio::test]
    async fn a_run_that_panics_answers_no_one_and_the_next_question_gets_another() {
        let runs = AtomicUsize::new(0);
        let shared = SharedWork::new(move || match runs.fetch_add(1, Ordering::Relaxed) {
            0 => panic!("the first run"),
            run => run,
        });
        assert_eq!(shared.result().await, None);
        assert_eq!(shared.result().await, Some(1));
    }

    /// Asks again the moment it learns that its answer is lost, in the thread that lost it.
    struct AsksAgain {
        shared: Arc<SharedWork<usize>>,
        again: mpsc::Sender<BoxFuture<'static, Option<usize>>>,
    }

    impl Wake for AsksAgain {
        fn wake(self: Arc<Self>) {
            let shared = Arc::clone(&self.shared);
            let mut question = async move { shared.result().await }.boxed();
            // Asked now. Another thread may answer at once.
            let question = match question.poll_unpin(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(answer) => ready(answer).boxed(),
                Poll::Pending => question,
            };
            self.again.send(question).unwrap();
        }
    }

    #[tokio::test]
    async fn who_asks_again_while_a_run_panics_gets_another() {
        let (runs, (panics, may_panic)) = (AtomicUsize::new(0), mpsc::channel());
        let may_panic = Mutex::new(may_panic);
        let shared = Arc::new(SharedWork::new(move || match runs.fetch_add(1, Ordering::Relaxed) {
            0 => panic!("the first run, {:?}", may_panic.lock().unwrap().recv()),
            run => run,
        }));
        let (again, asked_again) = mpsc::channel();
        let waker = Waker::from(Arc::new(AsksAgain {
            shared: Arc::clone(&shared),
            again,
        }));
        let mut first = Box::pin(shared.result());
        assert!(first.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
        panics.send(()).unwrap();
        let second = asked_again
            .recv_timeout(Duration::from_secs(10))
            .expect("it asks again");
        assert_eq!(first.await, None);
        assert_eq!(second.await, Some(1));
    }

    #[test]
    fn a_runtime_that_shuts_down_loses_the_question_and_no_later_one() {
        let shared = SharedWork::new(|| 7);
        let new = || tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (ending, next) = (new(), new());
        let handle = ending.handle().clone();
        ending.shutdown_background();
        assert_eq!(handle.block_on(shared.result()), None);
        assert_eq!(next.block_on(shared.result()), Some(7));
    }
}
