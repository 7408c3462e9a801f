//! What SPIRE's server and agent read.

use std::path::{Path, PathBuf};

/// The trust domain.
pub(crate) const DOMAIN: &str = "k8s.nsm";

/// Where the server's administrator reaches it.
pub(crate) fn server_socket(folder: &Path) -> PathBuf {
    folder.join("server.sock")
}

/// Of a server that keeps what it has in `folder`.
pub(crate) fn server(folder: &Path) -> String {
    let (folder, socket) = (folder.display(), server_socket(folder));
    format!(
        r#"
server {{
  trust_domain = "{DOMAIN}"
  bind_address = "127.0.0.1"
  bind_port = 8081
  socket_path = "{socket}"
  data_dir = "{folder}"
  log_level = "INFO"
  ca_key_type = "ec-p256"
}}
plugins {{
  DataStore "sql" {{
    plugin_data {{
      database_type = "sqlite3"
      connection_string = "{folder}/server.sqlite3"
    }}
  }}
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"#,
        socket = socket.display()
    )
}

/// Of an agent that keeps what it has in `folder`, with the server's bundle in `bundle.pem` there.
/// Its key is on disk: the token counts once, and it comes back by what it has.
pub(crate) fn agent(folder: &Path, workload_api: &Path, token: &str) -> String {
    let (folder, socket) = (folder.display(), workload_api.display());
    format!(
        r#"
agent {{
  trust_domain = "{DOMAIN}"
  server_address = "127.0.0.1"
  server_port = 8081
  socket_path = "{socket}"
  data_dir = "{folder}/agent"
  log_level = "INFO"
  trust_bundle_path = "{folder}/bundle.pem"
  join_token = "{token}"
  experimental {{ sync_interval = "1s" }}
}}
plugins {{
  KeyManager "disk" {{ plugin_data {{ directory = "{folder}/agent" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{
    plugin_data {{
      discover_workload_path = true
      workload_size_limit = -1
    }}
  }}
}}
"#
    )
}
