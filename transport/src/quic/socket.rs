//! The UDP socket of an endpoint.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, Runtime, UdpPoller};

/// Most bytes that the kernel takes as one segmented send.
const SEGMENTED_BYTES_MAX: usize = 65_000;

/// Settings of a UDP socket.
#[derive(Clone, Copy, Debug)]
pub struct UdpSettings {
    /// Kernel buffer each way, in bytes. The system may grant less (`net.core.rmem_max`, `wmem_max`); a receive buffer
    /// that holds less than what arrives while the process is not scheduled loses datagrams. Default 8 MiB.
    pub buffer_bytes: usize,
}

impl Default for UdpSettings {
    fn default() -> Self {
        Self { buffer_bytes: 8 << 20 }
    }
}

/// Binds a UDP socket with large kernel buffers, for [`super::Endpoint::with_socket`].
///
/// # Errors
/// Any I/O error of binding; smaller buffers than asked for are logged only.
pub fn bind_udp(
    address: SocketAddr,
    settings: UdpSettings,
    runtime: &Arc<dyn Runtime>,
) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    let socket = UdpSocket::bind(address)?;
    let state = UdpSocketState::new((&socket).into())?;
    state.set_recv_buffer_size((&socket).into(), settings.buffer_bytes)?;
    state.set_send_buffer_size((&socket).into(), settings.buffer_bytes)?;
    let granted = state.recv_buffer_size((&socket).into())?;
    if granted < settings.buffer_bytes {
        let wanted = settings.buffer_bytes;
        tracing::info!(wanted, granted, "the system grants a smaller UDP receive buffer; see net.core.rmem_max");
    }
    Ok(Arc::new(SplitSends(runtime.wrap_udp_socket(socket)?)))
}

/// Splits segmented sends that are larger than the kernel takes, which with large datagrams they can be: the library
/// counts segments, not bytes.
#[derive(Debug)]
struct SplitSends(Arc<dyn AsyncUdpSocket>);

impl AsyncUdpSocket for SplitSends {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.0.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(segment) = transmit.segment_size.filter(|_| transmit.contents.len() > SEGMENTED_BYTES_MAX) else {
            return self.0.try_send(transmit);
        };
        let step = (SEGMENTED_BYTES_MAX / segment).max(1) * segment;
        for (index, contents) in transmit.contents.chunks(step).enumerate() {
            let segment_size = (contents.len() > segment).then_some(segment);
            match self.0.try_send(&Transmit { contents, segment_size, ..*transmit }) {
                Ok(()) => {}
                // A part is on its way: told "would block", the library would send that part again. The rest counts
                // as lost instead, which congestion control should see of a full buffer anyhow.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && index > 0 => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.0.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.0.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.0.may_fragment()
    }
}
