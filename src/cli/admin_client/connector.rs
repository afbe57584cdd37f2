//! The connections of the admin client.
//!
//! Owns: the check, before a connection sends data, that its peer belongs to a trusted user.
//! Never touches: the list of trusted users (`port_owner`), the data that is sent.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use ureq::Timeout;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

use crate::cli::admin_client::port_owner::{CONNECT_TIMEOUT, TrustedUsers};

/// Opens connections to listeners of these users only.
#[derive(Debug)]
pub(super) struct VerifyingConnector {
    pub(super) trusted: TrustedUsers,
    /// The Unix socket to connect to instead of the address. Only its user can have created it.
    pub(super) socket: Option<PathBuf>,
}

impl Connector for VerifyingConnector {
    type Out = VerifiedConnection;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _chained: Option<()>,
    ) -> Result<Option<VerifiedConnection>, ureq::Error> {
        let config = details.config;
        let buffers = || LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        if let Some(socket) = &self.socket {
            let stream = Stream::Unix(UnixStream::connect(socket)?);
            return Ok(Some(VerifiedConnection { stream, buffers: buffers() }));
        }
        let mut last_error = io::Error::from(io::ErrorKind::ConnectionRefused);
        for address in &details.addrs {
            match TcpStream::connect_timeout(address, CONNECT_TIMEOUT) {
                Ok(stream) => {
                    self.trusted.check(&stream)?;
                    stream.set_nodelay(true)?;
                    let stream = Stream::Tcp(stream);
                    return Ok(Some(VerifiedConnection { stream, buffers: buffers() }));
                }
                Err(error) => last_error = error,
            }
        }
        Err(last_error.into())
    }
}

/// A connection whose peer has been checked.
#[derive(Debug)]
pub(super) struct VerifiedConnection {
    stream: Stream,
    buffers: LazyBuffers,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn write_within(&mut self, bytes: &[u8], timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_write_timeout(timeout).and_then(|()| stream.write_all(bytes)),
            Self::Unix(stream) => stream.set_write_timeout(timeout).and_then(|()| stream.write_all(bytes)),
        }
    }

    fn read_within(&mut self, buffer: &mut [u8], timeout: Option<Duration>) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(timeout).and_then(|()| stream.read(buffer)),
            Self::Unix(stream) => stream.set_read_timeout(timeout).and_then(|()| stream.read(buffer)),
        }
    }
}

impl Transport for VerifiedConnection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let timeout = timeout.for_write();
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        self.stream
            .write_within(output, timeout.not_zero().map(|left| *left))
            .map_err(|error| map_timeout(error, timeout.reason))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let timeout = timeout.for_read();
        let left = timeout.not_zero().map(|left| *left);
        let buffer = self.buffers.input_append_buf();
        let read = loop {
            match self.stream.read_within(buffer, left) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(|error| map_timeout(error, timeout.reason))?,
            }
        };
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    /// Each request uses a new connection.
    fn is_open(&mut self) -> bool {
        false
    }
}

/// Maps the two error kinds that the system uses for a timeout to one timeout error.
fn map_timeout(error: io::Error, reason: Timeout) -> ureq::Error {
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
        return ureq::Error::Timeout(reason);
    }
    error.into()
}
