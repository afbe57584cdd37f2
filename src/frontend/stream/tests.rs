//! Hits that a client takes slowly.

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::sleep;

use super::*;

/// The largest piece that goes out at once here, about.
const SMALL: usize = 4 * 1024;

/// Two ends of a connection of which little is on its way at any time.
async fn narrow() -> (ClientStream, TcpStream, Arc<InFlightBytes>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(u32::try_from(SMALL).unwrap()).unwrap();
    let client = socket.connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    SockRef::from(&stream).set_send_buffer_size(SMALL).unwrap();
    let in_flight = InFlightBytes::new(4 << 20);
    (ClientStream::new(stream, peer, Arc::clone(&in_flight)), client, in_flight)
}

/// How much of 8 MiB is sent to a client that takes so much every second.
async fn sent(a_second: usize, held: usize) -> WriteResult {
    let (mut io, mut client, in_flight) = narrow().await;
    in_flight.take(held);
    let reader = tokio::spawn(async move {
        let mut taken = vec![0; a_second];
        while client.read_exact(&mut taken).await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    });
    let sent = io.send(b"HTTP/1.1 200 OK\r\n\r\n", &vec![7; 8 << 20]).await;
    reader.abort();
    sent
}

#[tokio::test(start_paused = true)]
async fn where_memory_is_short_a_hit_that_is_taken_too_slowly_is_cut() {
    assert!(sent(32 * 1024, 0).await.whole, "there is room");
    let short = sent(32 * 1024, 12 << 20).await;
    assert!(!short.whole && short.bytes < 1 << 20, "{} bytes", short.bytes);
    assert!(sent(256 * 1024, 12 << 20).await.whole, "as fast as is wanted");
}
