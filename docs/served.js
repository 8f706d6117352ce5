// The search needs a server: browsers give a page that is opened from disk no worker and no index.
if (location.protocol === "file:") document.querySelectorAll(".md-search, [for=__search]").forEach((part) => part.remove());
