//! The refusal that a browser can read: a session that consists of one Close.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::session::Opened;
use crate::proto::close::Code;
use crate::proto::frame::Control;
use crate::relay::Stream;

/// How long the client may take for its answering Close.
const ANSWER: Duration = Duration::from_secs(2);

/// Sends a Close, waits for the answer or the end of the stream, and ends it. Late and broken clients are dropped.
pub async fn close(client: Opened<Stream>, code: Code, reason: &str) {
    let mut stream = client.stream;
    let farewell = async {
        stream.write_all(Control::close(code, reason).encode(None).as_ref()).await?;
        stream.flush().await?;
        stream.shutdown().await?;
        // What it says is of no interest any more; its end is. Reading keeps a reset from overtaking our Close.
        let mut scrap = [0; 1024];
        while stream.read(&mut scrap).await? > 0 {}
        std::io::Result::Ok(())
    };
    let _ = tokio::time::timeout(ANSWER, farewell).await;
}
