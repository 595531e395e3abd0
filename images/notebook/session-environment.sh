# For shells that come by SSH, which sshd starts with next to nothing: the variables of the session's own processes, so that
# its GPUs, its `pip install --user` and its snapshots are the same there. Process 1 has them all, and is the user's own.
# Tokens of the hub's and of the server's stay out: what a program needs of them it gets in the browser's terminal.
if [ -n "${BASH_VERSION-}" ] && [ -n "${SSH_CONNECTION-}" ] && [ -z "${RESPAWNER_STORE-}" ] && [ -r /proc/1/environ ]; then
    while IFS= read -r -d '' entry; do
        case "${entry%%=*}" in
        HOME | USER | LOGNAME | SHELL | TERM | PWD | OLDPWD | SHLVL | _ | SSH_* | JUPYTERHUB_* | JPY_* | *TOKEN* | *SECRET*) ;;
        *[!A-Za-z0-9_]* | [0-9]*) ;;
        *) export "$entry" ;;
        esac
    done </proc/1/environ
    unset entry
fi
