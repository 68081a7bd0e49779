//! The socket that keeps the rates: what goes to an address of a lane waits for the lane's bucket.
//!
//! QUIC's own pacer knows one connection and no rate, only a window and a round trip; here all connections to a site share
//! its circuit. A send that must wait is answered with "would block", and the poller that the library asks next waits for
//! the bucket instead of the kernel.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Instant;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, UdpPoller};

use super::congestion::Lane;

thread_local! {
    /// When the send that this thread was just refused may be tried again. The library polls the connection's poller right
    /// after a refusal, in the same call, but does not tell it which send it was: this does.
    static REFUSED_UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Headers in front of a UDP payload.
const IPV4_HEADERS: usize = 28;
const IPV6_HEADERS: usize = 48;

/// A socket that keeps the lanes' rates.
pub(super) struct Shaper {
    socket: Arc<dyn AsyncUdpSocket>,
    runtime: Arc<dyn Runtime>,
    lanes: RwLock<BTreeMap<SocketAddr, Assigned>>,
}

struct Assigned {
    lane: Arc<Lane>,
    connections: usize,
}

impl Shaper {
    pub(super) fn new(socket: Arc<dyn AsyncUdpSocket>, runtime: Arc<dyn Runtime>) -> Arc<Self> {
        Arc::new(Self { socket, runtime, lanes: RwLock::default() })
    }

    /// Lets what goes to `remote` share the rate of `lane`, until the guard and all others for that address are dropped.
    pub(super) fn assign(self: &Arc<Self>, remote: SocketAddr, lane: Arc<Lane>) -> Assignment {
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        let assigned = lanes.entry(remote).or_insert_with(|| Assigned { lane: lane.clone(), connections: 0 });
        // The newest wins: the same address may belong to another node after a restart.
        assigned.lane = lane;
        assigned.connections += 1;
        Assignment { shaper: self.clone(), remote }
    }

    fn wait(&self, transmit: &Transmit<'_>) -> Option<Instant> {
        let lanes = self.lanes.read().unwrap_or_else(PoisonError::into_inner);
        let lane = &lanes.get(&transmit.destination)?.lane;
        let datagrams = transmit.segment_size.map_or(1, |segment| transmit.contents.len().div_ceil(segment.max(1)));
        let ipv4 = match transmit.destination {
            SocketAddr::V4(_) => true,
            SocketAddr::V6(address) => address.ip().to_ipv4_mapped().is_some(),
        };
        let headers = datagrams * if ipv4 { IPV4_HEADERS } else { IPV6_HEADERS };
        lane.take(transmit.contents.len() + headers, self.runtime.now()).err()
    }
}

/// One connection's use of a lane.
#[derive(Debug)]
pub(super) struct Assignment {
    shaper: Arc<Shaper>,
    remote: SocketAddr,
}

impl Drop for Assignment {
    fn drop(&mut self) {
        let mut lanes = self.shaper.lanes.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(assigned) = lanes.get_mut(&self.remote) {
            assigned.connections -= 1;
            if assigned.connections == 0 {
                lanes.remove(&self.remote);
            }
        }
    }
}

impl AsyncUdpSocket for Shaper {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let inner = self.socket.clone().create_io_poller();
        Box::pin(Poller { inner, runtime: self.runtime.clone(), timer: Mutex::default() })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.wait(transmit) {
            None => self.socket.try_send(transmit),
            Some(until) => {
                REFUSED_UNTIL.set(Some(until));
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

impl std::fmt::Debug for Shaper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shaper").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// Waits for the lane if it refused, otherwise for the kernel.
struct Poller {
    inner: Pin<Box<dyn UdpPoller>>,
    runtime: Arc<dyn Runtime>,
    /// Never locked: a mutex because a timer alone cannot be shared between threads, which the library asks for.
    timer: Mutex<Option<Pin<Box<dyn AsyncTimer>>>>,
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let timer = this.timer.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = REFUSED_UNTIL.take() {
            *timer = Some(this.runtime.new_timer(until));
        }
        if let Some(waiting) = timer {
            if waiting.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            *timer = None;
        }
        this.inner.as_mut().poll_writable(cx)
    }
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poller").finish_non_exhaustive()
    }
}
