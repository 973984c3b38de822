//! Reaching a log elsewhere, by whatever its name says.

use super::listen::check_addresses;
use super::tls::{Tls, TlsConfig};
use super::{Carrier, SshCarrier, Tcp};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::remote::Ssh;
use crate::ops::words::{LogName, host_and_port};
use crate::sys::net;
use std::time::{Duration, Instant};

/// How long reaching a TCP peer may take, its certificate included.
pub const CONNECT_TIME: Duration = Duration::from_secs(10);

/// The ways out of this machine.
#[derive(Clone, Debug)]
pub struct Dial {
    /// What `$LOGD_SSH` says.
    pub ssh: Ssh,
    /// What `--tls-cert` and its kin say.
    pub tls: Option<TlsConfig>,
}

impl Dial {
    /// Connects to where `log` is, with the name that it is asked for by there.
    ///
    /// # Errors
    /// `Unreachable`, which is worth another try; Usage, for a log that is on this machine, or TCP beyond
    /// it without certificates; `Permission`, when a certificate will not do.
    pub fn connect(&self, log: &LogName) -> Result<(Box<dyn Carrier>, String)> {
        match log {
            LogName::Remote { host, path } => {
                let name = path.to_str().map(str::to_string);
                let name = name.ok_or_else(|| Error::usage("a log's name elsewhere is UTF-8"))?;
                let carrier = SshCarrier::connect(&self.ssh, host, &name)?;
                Ok((Box::new(carrier), name))
            }
            LogName::Tcp { address, name } => {
                let carrier = self.tcp(address, name)?;
                Ok((carrier, name.clone()))
            }
            LogName::Local(path) => {
                let shown = path.to_string_lossy();
                Err(Error::new(
                    ErrorKind::Bug,
                    format!("{shown}: is on this machine"),
                ))
            }
            LogName::Stdio => Err(Error::new(ErrorKind::Bug, "-: is on this machine")),
        }
    }

    fn tcp(&self, address: &str, name: &str) -> Result<Box<dyn Carrier>> {
        let until = Instant::now() + CONNECT_TIME;
        let peer = format!("tcp://{address}/{name}");
        let (host, port) = host_and_port(address)?;
        let addresses = net::addresses(&host, port).map_err(|e| {
            let error = Error::io("cannot look up", e);
            error.with_kind(ErrorKind::Unreachable).at_path(&peer)
        })?;
        check_addresses(&peer, &addresses, self.tls.is_some())?;
        Ok(match &self.tls {
            Some(tls) => Box::new(Tls::connect(&addresses, &host, &peer, tls, until)?),
            None => Box::new(Tcp::connect(&addresses, &peer, until)?),
        })
    }
}
