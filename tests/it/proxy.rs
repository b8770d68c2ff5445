//! A network that the test controls: what goes through it goes on, comes late, is held back, or is cut off.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::harness::eventually;

/// How the network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    Fine,
    /// Everything comes so much later.
    Slow(Duration),
    /// Nothing comes, and nobody is told: connections are half-open. When it is fine again, what was held back comes.
    Silent,
    /// Connections end, and no new ones are made.
    Cut,
}

pub struct Proxy {
    pub address: SocketAddr,
    network: watch::Sender<Network>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Before whoever listens there, at an address of this machine.
    pub async fn before(target: SocketAddr, host: &str) -> Self {
        let listener = TcpListener::bind((host, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (network, state) = watch::channel(Network::Fine);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connect(client, target, state.clone()));
            }
        });
        Self { address, network, task }
    }

    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// Ends all connections that there are.
    pub async fn forget(&self) {
        self.set(Network::Cut);
        // One more is where new connections get theirs from.
        eventually(|| async {
            let left = self.network.receiver_count() - 1;
            if left == 0 { Ok(()) } else { Err(format!("{left} connections")) }
        })
        .await;
        self.set(Network::Fine);
    }
}

async fn connect(client: TcpStream, target: SocketAddr, mut state: watch::Receiver<Network>) {
    // The end of a connection is said once: where nobody hears it, nobody is told.
    client.set_zero_linger().expect("a socket");
    if !passes(&mut state).await {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let mut watched = state.clone();
    tokio::select! {
        _ = watched.wait_for(|network| *network == Network::Cut) => {}
        () = pump(from_client, to_server, state.clone()) => {}
        () = pump(from_server, to_client, state) => {}
    }
}

/// Waits until something comes through; false if nothing ever will.
async fn passes(state: &mut watch::Receiver<Network>) -> bool {
    let network = state.wait_for(|network| *network != Network::Silent).await.map(|network| *network);
    match network {
        Ok(Network::Slow(delay)) => sleep(delay).await,
        Ok(Network::Cut) | Err(_) => return false,
        Ok(_) => {}
    }
    true
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<Network>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if !passes(&mut state).await || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
