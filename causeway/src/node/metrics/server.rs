//! The endpoint: `GET /metrics` over HTTP/1.1, for a scraper near the node.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::NodeMetrics;

/// Connections served at once; more are closed at once.
const CONNECTIONS_MAX: usize = 16;
/// Time for the head of a request.
const HEAD_MAX: Duration = Duration::from_secs(5);
/// Time for a connection, from its start to its end: it serves one request.
const CONNECTION_MAX: Duration = Duration::from_secs(30);
/// Most headers, and bytes of a head.
const HEADERS_MAX: usize = 64;
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Pause after an accept that failed: without file descriptors the next one fails too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Serves until it is stopped, then waits for the connections to end.
pub(crate) async fn serve(listener: TcpListener, metrics: Arc<NodeMetrics>, stop: CancellationToken) {
    let (places, tasks) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), TaskTracker::new());
    loop {
        let accepted: std::io::Result<(TcpStream, SocketAddr)> = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (metrics, stop) = (metrics.clone(), stop.clone());
        tasks.spawn(async move {
            let place = Arc::new(place);
            tokio::select! {
                _ = tokio::time::timeout(CONNECTION_MAX, one(stream, metrics, place)) => {}
                () = stop.cancelled() => {}
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}

/// A connection's place among those that are served.
type Place = Arc<OwnedSemaphorePermit>;

async fn one(stream: TcpStream, metrics: Arc<NodeMetrics>, place: Place) {
    let service = service_fn(move |request| answer(request, metrics.clone(), place.clone()));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .keep_alive(false)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a scrape ended early");
    }
}

async fn answer(
    request: Request<Incoming>,
    metrics: Arc<NodeMetrics>,
    place: Place,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, kind, body) = if request.method() != Method::GET {
        (StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET is served\n".to_owned())
    } else if request.uri().path() != "/metrics" {
        (StatusCode::NOT_FOUND, TEXT, "metrics are at /metrics\n".to_owned())
    } else {
        match metrics.text(place).await {
            Ok(text) => (StatusCode::OK, OPEN_METRICS, text),
            Err(error) => {
                tracing::error!(%error, "the metrics cannot be collected");
                (StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n"))
            }
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    }
    Ok(response)
}
