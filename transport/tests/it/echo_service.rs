//! The smallest gRPC service, without generated code: one unary method over raw bytes, which answers with the caller's
//! name and its request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use causeway_transport::grpc::{self, IncomingLimits};
use causeway_transport::{ExpectPeer, IdentityStore};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::{Request, Response, uri::PathAndQuery};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::Channel;
use tonic::{Status, client, server};
use tower::Service;

/// A server that says goodbye to its connections when this value goes.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

pub(crate) async fn serve(identity: &Arc<IdentityStore>, accept: ExpectPeer, limits: IncomingLimits) -> Served {
    serve_at("127.0.0.1:0".parse().unwrap(), identity, accept, limits).await
}

pub(crate) async fn serve_at(
    address: SocketAddr,
    identity: &Arc<IdentityStore>,
    accept: ExpectPeer,
    limits: IncomingLimits,
) -> Served {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = grpc::incoming(listener, identity, accept, limits).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = grpc::server().add_service(EchoService);
    let serving = serving.serve_with_incoming_shutdown(incoming, stopped.map(drop));
    tokio::spawn(async move { serving.await.unwrap() });
    Served { address, _stop: stop }
}

pub(crate) async fn call(channel: Channel, request: &str) -> Result<String, Status> {
    let mut client = client::Grpc::new(channel);
    client.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
    let request = tonic::Request::new(Bytes::copy_from_slice(request.as_bytes()));
    let answer = client.unary(request, PathAndQuery::from_static("/test.Echo/Echo"), Raw).await?;
    Ok(String::from_utf8(answer.into_inner().to_vec()).unwrap())
}

#[derive(Clone)]
struct EchoService;

impl NamedService for EchoService {
    const NAME: &'static str = "test.Echo";
}

impl Service<Request<Body>> for EchoService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(async move { Ok(server::Grpc::new(Raw).unary(EchoMethod, request).await) })
    }
}

struct EchoMethod;

impl UnaryService<Bytes> for EchoMethod {
    type Response = Bytes;
    type Future = BoxFuture<'static, Result<tonic::Response<Bytes>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        Box::pin(async move {
            let peer = grpc::peer(&request)?.to_string();
            let text = String::from_utf8_lossy(request.get_ref()).into_owned();
            Ok(tonic::Response::new(format!("{peer} {text}").into()))
        })
    }
}

#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
