use bytes::Bytes;
use causeway_transport::ExpectPeer;

use crate::common::*;

#[tokio::test]
async fn a_call_goes_there_and_back() {
    let ca = ca();
    let server = endpoint(identity(&ca, &node("zurich", 1)));
    let caller = endpoint(identity(&ca, &node("eastus", 2)));
    let to = to(&server, ExpectPeer::Exactly(node("zurich", 1)));
    let (mut send, mut recv) = caller.call(&to, 7, Bytes::from_static(b"hello"), PATIENCE).await.unwrap();
    assert_eq!(recv.read_frame(100).await.unwrap().unwrap(), "site/eastus/node/2 7 hello");
    let large = Bytes::from(vec![7; 1 << 20]);
    for frame in [Bytes::new(), Bytes::from_static(b"x"), large] {
        send.write_frame(frame.clone()).await.unwrap();
        assert_eq!(recv.read_frame(1 << 20).await.unwrap().unwrap(), frame);
    }
    send.finish().unwrap();
    assert_eq!(recv.read_frame(100).await.unwrap(), None);
    let sent = caller.traffic()[&node("zurich", 1)];
    assert!(sent.total.sent_bytes > 1 << 20 && sent.total.received_bytes > 1 << 20, "{sent:?}");
    assert_eq!(sent.connections, 1);
}
