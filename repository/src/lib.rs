//! Packs and metadata images in object storage; the reader that needs no cluster; restore.
