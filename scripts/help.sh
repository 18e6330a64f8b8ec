# shellcheck shell=bash disable=SC1091
# Source this file, with the script's name and arguments: where they ask for help, it is told and the script ends. It sets
# nothing up: where nothing is yet, the script's own first lines have to do.
#
#     . scripts/help.sh NAME "$@"

case " ${*:2} " in
    *" --help "* | *" -h "*)
        (. scripts/env.sh && python "scripts/$1.py" --help) 2>/dev/null || sed -n '2,/^set/s/^# \{0,1\}//p' "scripts/$1.sh"
        exit
        ;;
esac
