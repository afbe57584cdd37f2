//! The baseline: a pingora service on one thread that sends the same bytes as larder and does nothing else.

use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{Server, ShutdownWatch};
use pingora_core::services::listening::Service;
use pingora_http::ResponseHeader;

struct Bare {
    fields: HeaderMap,
    body: Bytes,
}

#[async_trait]
impl HttpServerApp for Bare {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        _shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if !session.read_request().await.ok()? {
            return None;
        }
        session.set_keepalive(Some(60));
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.headers = self.fields.clone();
        session.write_response_header(Box::new(ResponseHeader::from(parts))).await.ok()?;
        session.write_response_body(self.body.clone(), true).await.ok()?;
        let settings = HttpPersistentSettings::for_session(&session);
        let stream = session.finish().await.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(stream, settings))
    }
}

/// Serves until it is killed; the argument is the body's length and the header fields, one per line.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let mut lines = arguments[0].lines();
    let length: usize = lines.next().and_then(|line| line.parse().ok()).expect("a length");
    let fields = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            (name, HeaderValue::from_str(value).expect("a value"))
        })
        .collect();
    // pingora's server does not report its port, so a free one is chosen here.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let conf = ServerConf { threads: 1, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = Service::new("bare".to_owned(), Bare { fields, body: Bytes::from(vec![b'x'; length]) });
    service.add_tcp(&free.to_string());
    server.add_service(service);
    println!("{free}");
    server.run_forever()
}
