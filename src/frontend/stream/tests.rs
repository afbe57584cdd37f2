//! Tests of fast hits with slow clients.

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::sleep;

use super::*;

/// The approximate size of the largest piece that the socket accepts at once here.
const SMALL: usize = 4 * 1024;

/// Both ends of a connection with small socket buffers.
async fn small_buffers() -> (ClientStream, TcpStream, Arc<InFlightBytes>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(u32::try_from(SMALL).unwrap()).unwrap();
    let client = socket.connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    SockRef::from(&stream).set_send_buffer_size(SMALL).unwrap();
    let in_flight = InFlightBytes::new(4 << 20);
    (ClientStream::new(stream, peer, Arc::clone(&in_flight)), client, in_flight)
}

/// Sends 8 MiB to a client that reads this many bytes per second, while `in_use` bytes are in flight.
async fn sent(bytes_per_second: usize, in_use: usize) -> WriteResult {
    let (mut io, mut client, in_flight) = small_buffers().await;
    in_flight.reserve(in_use);
    let reader = tokio::spawn(async move {
        let mut taken = vec![0; bytes_per_second];
        while client.read_exact(&mut taken).await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    });
    let sent = io.send(b"HTTP/1.1 200 OK\r\n\r\n", &vec![7; 8 << 20]).await;
    reader.abort();
    sent
}

#[tokio::test(start_paused = true)]
async fn a_slowly_read_hit_is_cut_when_memory_is_short() {
    assert!(sent(32 * 1024, 0).await.whole, "memory is available");
    let short = sent(32 * 1024, 12 << 20).await;
    assert!(!short.whole && short.bytes < 1 << 20, "{} bytes", short.bytes);
    assert!(sent(256 * 1024, 12 << 20).await.whole, "the client is fast enough");
}
