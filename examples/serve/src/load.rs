//! Callers of the front end, and what goes wrong meanwhile.

use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ostler_serve::ServingPool;
use tokio::net::TcpStream;

use crate::tally::{PATHS, Tallies};

/// What each path has to answer to this text.
const TEXT: &str = "how many words are there";
const ANSWERS: [&str; 3] = ["{\"words\":5}", "ereht era sdrow ynam woh", "HOW MANY WORDS ARE THERE"];

/// Calls one path until `end`, one call after the other.
pub(crate) async fn call(front: SocketAddr, path: usize, tallies: Tallies, end: Instant) {
    let mut connection = None;
    while Instant::now() < end {
        match one_call(front, path, &mut connection).await {
            Ok(status) => {
                tallies.count(path, status);
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    // Refused: at once it would be refused again.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            Err(_) => {
                // A response that was cut off: its connection is closed.
                tallies.count(path, StatusCode::BAD_GATEWAY);
                connection = None;
            }
        }
    }
}

async fn one_call(
    front: SocketAddr,
    path: usize,
    connection: &mut Option<SendRequest<Full<Bytes>>>,
) -> Result<StatusCode, Box<dyn Error + Send + Sync>> {
    let sender = match connection {
        Some(sender) => sender,
        None => {
            let stream = TcpStream::connect(front).await?;
            stream.set_nodelay(true)?;
            let (sender, driver) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(driver);
            connection.insert(sender)
        }
    };
    sender.ready().await?;
    let request = Request::post(format!("/{}", PATHS[path])).header("host", "localhost");
    let response = sender.send_request(request.body(Full::from(TEXT))?).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if status.is_success() {
        assert_eq!(body, ANSWERS[path], "the answer of /{}", PATHS[path]);
    }
    Ok(status)
}

/// Kills one of the workers every 200 ms.
pub(crate) async fn kill_workers(pools: [ServingPool; 3], end: Instant) {
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let workers = pools.iter().flat_map(|serving| serving.pool().workers());
        let pids: Vec<u32> = workers.filter_map(|worker| worker.pid).collect();
        let chosen = fastrand::choice(&pids).and_then(|pid| i32::try_from(*pid).ok());
        if let Some(pid) = chosen {
            // It may have just ended.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
