"""What is measured besides, after training, where a job asks for it?"""

from limbeck.compare.also.asked import also_measured, check_also
from limbeck.compare.also.seen import Seen

__all__ = ["Seen", "also_measured", "check_also"]
