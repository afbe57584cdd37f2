//! A client of HTTP/1.1 that takes only what RFC 9112 allows and keeps every part of a response, and
//! the form in which strict clients of both versions report what they received.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::client::End;

/// A field section: names in lower case, each with its values in their order.
pub type Fields = BTreeMap<String, Vec<String>>;

/// Longer than any response of a test takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How the end of a body was to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none: HEAD, 204, 304.
    Nothing,
    Length,
    Chunked,
    /// With the connection.
    Close,
    /// HTTP/2, and whether the last DATA frame of several was empty.
    Stream {
        empty_last: bool,
    },
}

/// A response with all its parts.
#[derive(Debug, Clone)]
pub struct Received {
    pub status: u16,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// Status and fields of the interim (1xx) responses before it.
    pub interim: Vec<(u16, Fields)>,
    pub framing: Framing,
    pub end: End,
}

impl Received {
    /// The only value of a field; `None` if there is none or there are several.
    pub fn field(&self, name: &str) -> Option<&str> {
        match self.fields.get(name).map(Vec::as_slice) {
            Some([value]) => Some(value),
            _ => None,
        }
    }

    /// `Cache-Status`, empty if there is none.
    pub fn cache_status(&self) -> &str {
        self.field("cache-status").unwrap_or_default()
    }
}

/// Why there is no response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The connection was closed, or the request refused, before anything was done with it.
    Closed,
    /// The connection was closed where the response should begin.
    Gone,
    /// HTTP/2: the stream or its connection was reset before a head.
    Reset(String),
    /// The response is not one by the RFCs.
    Violation(String),
}

fn violation<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Violation(what.into()))
}

/// What a connection reads and writes.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// A connection of HTTP/1.1, for one request after another.
pub struct H1 {
    stream: Box<dyn Wire>,
    bytes: Vec<u8>,
    /// Whether another request may follow.
    pub reusable: bool,
}

impl H1 {
    pub fn over(stream: impl Wire + 'static) -> Self {
        Self { stream: Box::new(stream), bytes: Vec::new(), reusable: true }
    }

    /// Sends a request without a body and reads its response. `fields` are whole lines.
    pub async fn ask(
        &mut self,
        method: &str,
        target: &str,
        fields: &[String],
    ) -> Result<Received, Fault> {
        self.quiet().await?;
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        for field in fields {
            head.push_str(field);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        self.reusable = false;
        self.stream.write_all(head.as_bytes()).await.map_err(|_| Fault::Gone)?;
        self.stream.flush().await.map_err(|_| Fault::Gone)?;
        match timeout(PATIENCE, self.response(method)).await {
            Ok(response) => response,
            Err(_elapsed) => violation("no whole response in time"),
        }
    }

    /// Waits until the other side closes the connection; false if it sends something or never does.
    pub async fn is_closed_within(&mut self, time: Duration) -> bool {
        let mut read = Vec::new();
        matches!(timeout(time, self.stream.read_buf(&mut read)).await, Ok(Ok(0) | Err(_)))
    }

    /// Before a request nothing may come: it would be taken for the response.
    async fn quiet(&mut self) -> Result<(), Fault> {
        if self.bytes.is_empty() {
            match timeout(Duration::ZERO, self.stream.read_buf(&mut self.bytes)).await {
                Err(_nothing) => return Ok(()),
                Ok(Ok(0) | Err(_)) => return Err(Fault::Closed),
                Ok(Ok(_)) => {}
            }
        }
        violation(format!("{} bytes after the response before", self.bytes.len()))
    }

    async fn more(&mut self) -> bool {
        self.stream.read_buf(&mut self.bytes).await.is_ok_and(|read| read > 0)
    }

    async fn response(&mut self, method: &str) -> Result<Received, Fault> {
        let mut interim = Vec::new();
        loop {
            let (status, fields) = self.head(interim.is_empty()).await?;
            if !(100..200).contains(&status) {
                return self.rest(method, status, fields, interim).await;
            }
            if status == 101 || is_framed(&fields) {
                return violation(format!("a {status} that was not asked for or has a body"));
            }
            interim.push((status, fields));
        }
    }

    async fn rest(
        &mut self,
        method: &str,
        status: u16,
        fields: Fields,
        interim: Vec<(u16, Fields)>,
    ) -> Result<Received, Fault> {
        let framing = framing(method, status, &fields)?;
        let mut response = Received {
            status,
            fields,
            body: Vec::new(),
            trailers: Fields::new(),
            interim,
            framing,
            end: End::Whole,
        };
        match framing {
            Framing::Nothing | Framing::Stream { .. } => {}
            Framing::Length => self.sized(&mut response).await?,
            Framing::Chunked => self.chunked(&mut response).await?,
            Framing::Close => self.until_closed(&mut response).await,
        }
        let mut options = response.fields.get("connection").into_iter().flatten();
        let closes = options.any(|v| v.split(',').any(|o| o.trim().eq_ignore_ascii_case("close")));
        self.reusable = response.end == End::Whole && framing != Framing::Close && !closes;
        if !self.bytes.is_empty() {
            return violation(format!("{} bytes behind the response", self.bytes.len()));
        }
        Ok(response)
    }

    /// Reads a head: status and fields.
    async fn head(&mut self, is_first: bool) -> Result<(u16, Fields), Fault> {
        let end = loop {
            if let Some(at) = self.bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more().await {
                return match (self.bytes.as_slice(), is_first) {
                    ([], true) => Err(Fault::Gone),
                    (cut, _) => violation(format!("a head ends after {} bytes", cut.len())),
                };
            }
        };
        let head: Vec<u8> = self.bytes.drain(..end).take(end - 4).collect();
        let head: String = head.into_iter().map(char::from).collect();
        let (line, fields) = head.split_once("\r\n").unwrap_or((&head, ""));
        let status = status(line)?;
        let fields = fields.split("\r\n").filter(|line| !line.is_empty());
        Ok((status, section(fields)?))
    }

    async fn sized(&mut self, response: &mut Received) -> Result<(), Fault> {
        let length = length(&response.fields)?.unwrap_or_default();
        while self.bytes.len() < length && self.more().await {}
        let got = length.min(self.bytes.len());
        response.end = if got == length { End::Whole } else { End::Cut };
        response.body = self.bytes.drain(..got).collect();
        Ok(())
    }

    async fn until_closed(&mut self, response: &mut Received) {
        response.end = loop {
            match self.stream.read_buf(&mut self.bytes).await {
                Ok(0) => break End::Whole,
                Ok(_) => {}
                Err(_reset) => break End::Cut,
            }
        };
        response.body = std::mem::take(&mut self.bytes);
    }

    /// RFC 9112 §7.1.
    async fn chunked(&mut self, response: &mut Received) -> Result<(), Fault> {
        loop {
            let Some(line) = self.line().await? else { break };
            let digits = line.split(';').next().unwrap_or_default();
            let is_size = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
            let Some(size) = usize::from_str_radix(digits, 16).ok().filter(|_| is_size) else {
                return violation(format!("a chunk of size {line:?}"));
            };
            if size == 0 {
                return self.trailers(response).await;
            }
            while self.bytes.len() < size + 2 && self.more().await {}
            let got = size.min(self.bytes.len());
            response.body.extend(self.bytes.drain(..got));
            if got < size || self.bytes.len() < 2 {
                break;
            }
            if self.bytes.drain(..2).collect::<Vec<_>>() != b"\r\n" {
                return violation("a chunk does not end where its size says");
            }
        }
        self.bytes.clear();
        response.end = End::Cut;
        Ok(())
    }

    async fn trailers(&mut self, response: &mut Received) -> Result<(), Fault> {
        let mut lines = Vec::new();
        loop {
            match self.line().await? {
                None => {
                    response.end = End::Cut;
                    return Ok(());
                }
                Some(line) if line.is_empty() => break,
                Some(line) => lines.push(line),
            }
        }
        response.trailers = section(lines.iter().map(String::as_str))?;
        Ok(())
    }

    /// A line without its end; `None` where the connection ends inside it.
    async fn line(&mut self) -> Result<Option<String>, Fault> {
        let end = loop {
            if let Some(at) = self.bytes.iter().position(|byte| *byte == b'\n') {
                break at;
            }
            if !self.more().await {
                return Ok(None);
            }
        };
        let line: String = self.bytes.drain(..=end).map(char::from).collect();
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(Some(line.to_owned())),
            None => violation(format!("a line that ends without CR: {line:?}")),
        }
    }
}

fn status(line: &str) -> Result<u16, Fault> {
    let mut parts = line.splitn(3, ' ');
    let (version, status, reason) = (parts.next(), parts.next(), parts.next());
    let digits = status.filter(|s| s.len() == 3 && s.bytes().all(|b| b.is_ascii_digit()));
    match (version, digits.and_then(|digits| digits.parse().ok()), reason) {
        (Some("HTTP/1.1"), Some(status), Some(_)) if (100..600).contains(&status) => Ok(status),
        _ => violation(format!("the status line {line:?}")),
    }
}

/// RFC 9112 §5: no folding, no whitespace around names, no control characters.
fn section<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Fields, Fault> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let mut fields = Fields::new();
    for line in lines {
        let name_and_value = line.split_once(':').filter(|(name, value)| {
            let named = !name.is_empty() && name.bytes().all(is_token);
            named && !value.chars().any(|c| c != '\t' && c.is_ascii_control())
        });
        let Some((name, value)) = name_and_value else {
            return violation(format!("the field line {line:?}"));
        };
        let value = value.trim_matches([' ', '\t']).to_owned();
        fields.entry(name.to_ascii_lowercase()).or_default().push(value);
    }
    Ok(fields)
}

fn is_framed(fields: &Fields) -> bool {
    fields.contains_key("content-length") || fields.contains_key("transfer-encoding")
}

/// RFC 9112 §6.3.
fn framing(method: &str, status: u16, fields: &Fields) -> Result<Framing, Fault> {
    let coding = fields.get("transfer-encoding").map(Vec::as_slice);
    let length = length(fields)?;
    match (coding, length) {
        (Some(_), Some(_)) => violation("both Content-Length and Transfer-Encoding"),
        (Some([coding]), _) if !coding.eq_ignore_ascii_case("chunked") => {
            violation(format!("the transfer coding {coding:?}"))
        }
        (Some([] | [_, _, ..]), _) => violation("several transfer codings"),
        _ if status == 204 && is_framed(fields) => violation("a 204 with a framing field"),
        _ if method == "HEAD" || status == 204 || status == 304 => Ok(Framing::Nothing),
        (Some(_), None) => Ok(Framing::Chunked),
        (None, Some(_)) => Ok(Framing::Length),
        (None, None) => Ok(Framing::Close),
    }
}

fn length(fields: &Fields) -> Result<Option<usize>, Fault> {
    match fields.get("content-length").map(Vec::as_slice) {
        None => Ok(None),
        Some([digits]) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().map(Some).or_else(|_| violation("a length beyond all"))
        }
        Some(values) => violation(format!("Content-Length {values:?}")),
    }
}
