#!/bin/bash
# make-images.sh LAYOUT: makes two images from Debian's busybox-static in the OCI layout LAYOUT.
#   busybox  one layer: busybox with a link for each applet
#   web      four layers over it: a site, a draft of a page, the draft removed (a whiteout), a folder replaced whole (an opaque one)
set -euo pipefail
layout=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

root=$work/root
mkdir -p "$root"/{bin,dev,etc,home,proc,root,sys,tmp,usr/bin,var/www}
chmod 1777 "$root/tmp"
cp /bin/busybox "$root/bin/busybox"
for applet in $(/bin/busybox --list); do
	[ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/var/www:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\nwww:x:33:\n' >"$root/etc/group"

umoci init --layout "$layout"
umoci new --image "$layout:busybox"
umoci insert --image "$layout:busybox" "$root" /
umoci config --image "$layout:busybox" --config.cmd sh --config.env PATH=/usr/local/bin:/usr/bin:/bin --author berth

mkdir -p "$work/site/pages" "$work/replaced"
echo '<h1>hello from berth</h1>' >"$work/site/index.html"
echo 'a draft' >"$work/site/draft.html"
echo 'old' >"$work/site/pages/old.html"
echo 'new' >"$work/replaced/new.html"
umoci tag --image "$layout:busybox" web
umoci insert --image "$layout:web" "$work/site" /var/www
umoci insert --image "$layout:web" --whiteout /var/www/draft.html
umoci insert --image "$layout:web" --opaque "$work/replaced" /var/www/pages
umoci config --image "$layout:web" --config.exposedports 80/tcp --config.workingdir /var/www \
	--config.cmd httpd --config.cmd -f --config.cmd -h --config.cmd /var/www --config.label org.example.demo=web
