//! An HTTP/1.1 client that accepts only what RFC 9112 allows and returns every part of a response.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::client::End;
use crate::strict_response::{ByteStream, Fault, Fields, Framing, ReceivedResponse, TIMEOUT};
use crate::strict_response::{
    content_length, framing, is_framed, parse_fields, parse_status_line, violation,
};

/// An HTTP/1.1 connection, for sequential requests.
pub struct H1 {
    stream: Box<dyn ByteStream>,
    bytes: Vec<u8>,
    /// Whether another request may follow.
    pub reusable: bool,
}

impl H1 {
    pub fn over(stream: impl ByteStream + 'static) -> Self {
        Self { stream: Box::new(stream), bytes: Vec::new(), reusable: true }
    }

    /// Sends a request without a body and reads its response. `fields` are whole lines.
    pub async fn send(
        &mut self,
        method: &str,
        target: &str,
        fields: &[String],
    ) -> Result<ReceivedResponse, Fault> {
        self.expect_no_bytes().await?;
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        for field in fields {
            head.push_str(field);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        self.reusable = false;
        self.stream.write_all(head.as_bytes()).await.map_err(|_| Fault::NoResponse)?;
        self.stream.flush().await.map_err(|_| Fault::NoResponse)?;
        match timeout(TIMEOUT, self.read_response(method)).await {
            Ok(response) => response,
            Err(_elapsed) => violation("no whole response in time"),
        }
    }

    /// Waits until the other side closes the connection; false if it sends something or never does.
    pub async fn is_closed_within(&mut self, time: Duration) -> bool {
        let mut read = Vec::new();
        matches!(timeout(time, self.stream.read_buf(&mut read)).await, Ok(Ok(0) | Err(_)))
    }

    /// Fails if bytes have arrived before a request: they would be taken for its response.
    async fn expect_no_bytes(&mut self) -> Result<(), Fault> {
        if self.bytes.is_empty() {
            match timeout(Duration::ZERO, self.stream.read_buf(&mut self.bytes)).await {
                Err(_elapsed) => return Ok(()),
                Ok(Ok(0) | Err(_)) => return Err(Fault::NotProcessed),
                Ok(Ok(_)) => {}
            }
        }
        violation(format!("{} bytes after the previous response", self.bytes.len()))
    }

    async fn read_some(&mut self) -> bool {
        self.stream.read_buf(&mut self.bytes).await.is_ok_and(|read| read > 0)
    }

    async fn read_response(&mut self, method: &str) -> Result<ReceivedResponse, Fault> {
        let mut interim = Vec::new();
        loop {
            let (status, fields) = self.read_head(interim.is_empty()).await?;
            if !(100..200).contains(&status) {
                return self.read_body(method, status, fields, interim).await;
            }
            if status == 101 || is_framed(&fields) {
                return violation(format!("a {status} that was not requested or has a body"));
            }
            interim.push((status, fields));
        }
    }

    async fn read_body(
        &mut self,
        method: &str,
        status: u16,
        fields: Fields,
        interim: Vec<(u16, Fields)>,
    ) -> Result<ReceivedResponse, Fault> {
        let framing = framing(method, status, &fields)?;
        let mut response = ReceivedResponse {
            status,
            fields,
            body: Vec::new(),
            trailers: Fields::new(),
            interim,
            framing,
            end: End::Complete,
        };
        match framing {
            Framing::NoBody | Framing::Stream { .. } => {}
            Framing::Length => self.read_sized(&mut response).await?,
            Framing::Chunked => self.read_chunked(&mut response).await?,
            Framing::Close => self.read_until_close(&mut response).await,
        }
        let mut options = response.fields.get("connection").into_iter().flatten();
        let closes = options.any(|v| v.split(',').any(|o| o.trim().eq_ignore_ascii_case("close")));
        self.reusable = response.end == End::Complete && framing != Framing::Close && !closes;
        if !self.bytes.is_empty() {
            return violation(format!("{} extra bytes after the response", self.bytes.len()));
        }
        Ok(response)
    }

    /// Reads a response head: status and fields.
    async fn read_head(&mut self, is_first: bool) -> Result<(u16, Fields), Fault> {
        let end = loop {
            if let Some(at) = self.bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.read_some().await {
                return match (self.bytes.as_slice(), is_first) {
                    ([], true) => Err(Fault::NoResponse),
                    (cut, _) => violation(format!("a head ends after {} bytes", cut.len())),
                };
            }
        };
        let head: Vec<u8> = self.bytes.drain(..end).take(end - 4).collect();
        let head: String = head.into_iter().map(char::from).collect();
        let (line, fields) = head.split_once("\r\n").unwrap_or((&head, ""));
        let status = parse_status_line(line)?;
        let fields = fields.split("\r\n").filter(|line| !line.is_empty());
        Ok((status, parse_fields(fields)?))
    }

    async fn read_sized(&mut self, response: &mut ReceivedResponse) -> Result<(), Fault> {
        let length = content_length(&response.fields)?.unwrap_or_default();
        while self.bytes.len() < length && self.read_some().await {}
        let available = length.min(self.bytes.len());
        response.end = if available == length { End::Complete } else { End::Truncated };
        response.body = self.bytes.drain(..available).collect();
        Ok(())
    }

    async fn read_until_close(&mut self, response: &mut ReceivedResponse) {
        response.end = loop {
            match self.stream.read_buf(&mut self.bytes).await {
                Ok(0) => break End::Complete,
                Ok(_) => {}
                Err(_reset) => break End::Truncated,
            }
        };
        response.body = std::mem::take(&mut self.bytes);
    }

    /// Reads a chunked body (RFC 9112 §7.1).
    async fn read_chunked(&mut self, response: &mut ReceivedResponse) -> Result<(), Fault> {
        loop {
            let Some(line) = self.read_line().await? else { break };
            let digits = line.split(';').next().unwrap_or_default();
            let is_size = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
            let Some(size) = usize::from_str_radix(digits, 16).ok().filter(|_| is_size) else {
                return violation(format!("a chunk of size {line:?}"));
            };
            if size == 0 {
                return self.read_trailers(response).await;
            }
            while self.bytes.len() < size + 2 && self.read_some().await {}
            let available = size.min(self.bytes.len());
            response.body.extend(self.bytes.drain(..available));
            if available < size || self.bytes.len() < 2 {
                break;
            }
            if self.bytes.drain(..2).collect::<Vec<_>>() != b"\r\n" {
                return violation("a chunk does not end after its size");
            }
        }
        self.bytes.clear();
        response.end = End::Truncated;
        Ok(())
    }

    async fn read_trailers(&mut self, response: &mut ReceivedResponse) -> Result<(), Fault> {
        let mut lines = Vec::new();
        loop {
            match self.read_line().await? {
                None => {
                    response.end = End::Truncated;
                    return Ok(());
                }
                Some(line) if line.is_empty() => break,
                Some(line) => lines.push(line),
            }
        }
        response.trailers = parse_fields(lines.iter().map(String::as_str))?;
        Ok(())
    }

    /// Reads a line, without its CRLF; `None` if the connection ends inside the line.
    async fn read_line(&mut self) -> Result<Option<String>, Fault> {
        let end = loop {
            if let Some(at) = self.bytes.iter().position(|byte| *byte == b'\n') {
                break at;
            }
            if !self.read_some().await {
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
